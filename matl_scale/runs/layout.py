"""The one list of the files of a run folder. `docs/formats.md` says what each holds."""

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

CONFIG_FILE = "config.yaml"
CHECKPOINT_FILE = "checkpoint.json"  # the description in a checkpoint's folder
STATE_FILE = "state.pt"  # the tensors in a checkpoint's folder
LOCK_FILE = ".lock"
MLFLOW_LOCK_FILE = ".mlflow.lock"


@dataclass(frozen=True)
class RunFolder:
    """The files of one run, `run.dir/run.name`. Whether they exist is not its business.

    Attributes:
        path: The folder.
    """

    path: Path

    @property
    def config_file(self) -> Path:
        """The config, as `--config` reads it."""
        return self.path / CONFIG_FILE

    @property
    def about_file(self) -> Path:
        """What the run is made of: flat config, data, environment."""
        return self.path / "about.json"

    @property
    def status_file(self) -> Path:
        """How the last start ended."""
        return self.path / "status.json"

    @property
    def metrics_file(self) -> Path:
        """One JSON line per record."""
        return self.path / "metrics.jsonl"

    @property
    def per_task_file(self) -> Path:
        """Every metric of every task at every evaluation, as a long table."""
        return self.path / "per_task.parquet"

    @property
    def draws_file(self) -> Path:
        """How many slots each task has had at every evaluation, as a long table."""
        return self.path / "draws.parquet"

    @property
    def balance_file(self) -> Path:
        """The share of the draws that each class of each task gets."""
        return self.path / "balance.parquet"

    @property
    def masks_file(self) -> Path:
        """Routing masks by layer, bool, shape `(num_tasks, num_units)`."""
        return self.path / "masks.npz"

    @property
    def per_task_picture(self) -> Path:
        """The picture tasks × evaluations that MLflow shows."""
        return self.path / "per_task.png"

    @property
    def mlflow_file(self) -> Path:
        """How far the copy to MLflow is."""
        return self.path / "mlflow.json"

    @property
    def damaged_file(self) -> Path:
        """Samples that could not be read."""
        return self.path / "damaged.csv"

    @property
    def nonfinite_file(self) -> Path:
        """Samples of the step at which the run gave up on numbers that are not finite."""
        return self.path / "nonfinite.csv"

    @property
    def checkpoints_folder(self) -> Path:
        """Checkpoints to resume from, a folder `step-NNNNNNNNN` each."""
        return self.path / "checkpoints"

    @property
    def best_folder(self) -> Path:
        """The network of the best evaluation, without its optimizer, in a folder `step-NNNNNNNNN`."""
        return self.path / "best"

    @property
    def export_folder(self) -> Path:
        """Where `matl-export` writes by default."""
        return self.path / "export"

    def predictions_file(self, split: str) -> Path:
        """What the last evaluation of a split predicted for every sample."""
        return self.path / f"predictions-{quote(split, safe='')}.parquet"
