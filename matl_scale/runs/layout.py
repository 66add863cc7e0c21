"""The one list of the files of a run folder. `docs/formats.md` says what each holds."""

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

CONFIG_FILE = "config.yaml"
CHECKPOINT_FILE = "checkpoint.json"  # the description in a checkpoint's folder
STATE_FILE = "state.pt"  # the tensors in a checkpoint's folder
# in a checkpoint's folder, beside the tensors of a network that was trained on features: the trunk that computes these
TRUNK_FILE = "trunk.safetensors"
DECISIONS_FILE = "decisions.parquet"  # beside the tensors of a best network
LOCK_FILE = ".lock"
MLFLOW_LOCK_FILE = ".mlflow.lock"
WHICH = "best, newest, or a folder step-… (default: best)"  # which checkpoint: the help text of --checkpoint


class Entry:
    """A file or folder of a run, by its name: as an attribute of a `RunFolder`, its path."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, folder: "RunFolder", _: type) -> Path:
        return folder.path / self.name


@dataclass(frozen=True)
class RunFolder:
    """The files of one run, `run.dir/run.name`, whether they exist or not."""

    path: Path

    config_file = Entry(CONFIG_FILE)  #: the config, as `--config` reads it
    about_file = Entry("about.json")  #: what the run is made of: flat config, data, environment
    status_file = Entry("status.json")  #: how the last start ended
    metrics_file = Entry("metrics.jsonl")  #: one line per record
    per_task_file = Entry("per_task.parquet")  #: every metric of every task at every evaluation, as a long table
    draws_file = Entry(
        "draws.parquet"
    )  #: how many slots and labels each task has had at every evaluation, as a long table
    balance_file = Entry("balance.parquet")  #: the share of the draws that each class of each task gets
    routes_file = Entry("routes.parquet")  #: which route serves each task
    masks_file = Entry("masks.npz")  #: routing masks by layer, bool, shape `(num_routes, num_units)`
    per_task_picture = Entry("per_task.png")  #: the picture tasks × evaluations that MLflow shows
    mlflow_file = Entry("mlflow.json")  #: how far the copy to MLflow is
    damaged_file = Entry("damaged.csv")  #: samples that could not be read
    nonfinite_file = Entry("nonfinite.csv")  #: samples of the step at which numbers that are not finite ended the run
    checkpoints_folder = Entry("checkpoints")  #: to resume from, a folder `step-NNNNNNNNN` each
    best_folder = Entry("best")  #: the network of the best evaluation, without its optimizer, in such a folder
    trunk_file = Entry(TRUNK_FILE)  #: of a network that is trained on features: the trunk that computed these
    export_folder = Entry("export")  #: where `matl-export` writes by default

    def best_predictions_file(self, split: str) -> Path:
        """What the best network predicted for every sample of a split, if it is not the network that was evaluated last."""
        return self.path / f"best-predictions-{quote(split, safe='')}.parquet"

    def predictions_file(self, split: str) -> Path:
        """What the last evaluation of a split predicted for every sample."""
        return self.path / f"predictions-{quote(split, safe='')}.parquet"
