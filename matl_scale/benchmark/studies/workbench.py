"""Prepares data and trains networks for studies in one folder, each once: what is finished there is never repeated."""

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from data_prep.dataset import Dataset
from data_prep.shard_set import write_shard_set
from matl_scale.data.shards.versions import is_shard_set
from matl_scale.errors import InputError, RunError, shortened
from matl_scale.storage.files import write_json
from matl_scale.storage.store import Store
from matl_scale.train.config import Config, with_settings
from matl_scale.train.defaults.fill import fill_only_auto
from matl_scale.train.evaluate_run import run_evaluation
from matl_scale.train.loop import Hooks
from matl_scale.train.process_group import build_accelerator
from matl_scale.train.run import train

# what a study's trainings have unless it says otherwise, so that its table does not change with the rules behind `auto`
FIXED: dict[str, Any] = {
    "data.augment": "none",
    "data.image_size": 0,
    "model.name": "resnet18",
    "model.stem": "standard",
    "routing.sigma": 0.5,
    "train.accumulate": 1,
    "train.ema_decay": 0.0,
    "optim.head_lr_scale": 1.0,
    "optim.warmup_steps": 0,
}
RESULT_FILE = "study.json"  # in a run's folder; written last, so that it means "done"

Settings = Mapping[str, Any]  # config key → value, as {"train.steps": 300}
Measure = Callable[[Path], Mapping[str, float]]  # from a run's folder to the values of a table's row


def train_and_evaluate(config: Config, hooks: Hooks | None = None) -> None:
    """Trains a network to its end, and evaluates the best one on the split test. What is done of it already stays.

    `train.minutes` are those of the process's CPU time, so that what else the machine does changes little.
    """
    outcome = train(
        config, build_accelerator(config.train.precision), hooks=replace(hooks or Hooks(), seconds=time.process_time)
    )
    if outcome.stopped:
        raise RunError(f"The training in {config.run.folder} was asked to stop. Start the study again to continue it.")
    run_evaluation(config.run.folder, "test", "best")


@dataclass(frozen=True, kw_only=True)
class Workbench:
    """The folder of studies, the data sets that they may read, and how they train."""

    work: Path
    data: Mapping[str, Path]  # folders of data sets, by name
    only: str = ""  # trainings whose name does not contain it are left out
    train: Callable[[Config], None] = train_and_evaluate
    console: Console = field(default_factory=lambda: Console(stderr=True))

    def shard_set(self, name: str, build: Callable[[], Dataset]) -> Path:
        """Returns the folder of a shard set, which is written at the first call."""
        folder = self.work / "data" / name
        if not is_shard_set(Store(folder)):
            self.say(f"{name}: writing its shards")
            write_shard_set(lambda _: build(), folder)
        return folder

    def run(
        self, name: str, data: Callable[[], Path], settings: Settings, measure: Measure, rules: bool = False
    ) -> Mapping[str, float] | None:
        """Trains a network and measures it, or returns what was measured before.

        Args:
            name: Of the run's folder; also tells the run apart from all others in the work folder.
            data: Returns the folder of its shard set; called only if there is something to train.
            settings: Config keys with their values; the others have their defaults.
            measure: Measures the trained and evaluated network.
            rules: Whether the rules behind `auto` choose what is not given; else that is fixed.

        Returns:
            The values by name; None for a training that `only` leaves out.

        Raises:
            InputError: The run in the folder was made with other settings.
        """
        if self.only not in name:
            return None
        folder = self.work / "runs" / name
        result = folder / RESULT_FILE
        if result.is_file():
            kept = json.loads(result.read_text(encoding="utf-8"))
            check_same_settings(folder, kept["settings"], settings)
            return {key: math.nan if value is None else value for key, value in kept["values"]}
        self.say(f"{name}: training")
        self.train(build_config(settings, folder, data(), rules))
        values = measure(folder)
        # pairs, because the order of the table's columns is that of the values
        stored = [(key, None if math.isnan(value) else value) for key, value in values.items()]
        write_json(result, {"settings": dict(settings), "values": stored})
        self.say(f"{name}: " + ", ".join(f"{key} {value:.4f}" for key, value in values.items()))
        return values

    def say(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False)


def build_config(settings: Settings, folder: Path, data: Path, rules: bool = False) -> Config:
    """Returns the config of a run of a study: local files only, and one loader in the training process."""
    given = {
        "run.name": folder.name,
        "run.dir": str(folder.parent),
        "data.path": str(data),
        "data.workers": 0,
        "track.mlflow": False,
        **settings,
    }
    config = with_settings(Config(), given)
    return config if rules else fill_only_auto(config, FIXED)


def check_same_settings(folder: Path, kept: Settings, wanted: Settings) -> None:
    """Raises `InputError` if a finished run has other settings than a study wants now."""
    now = json.loads(json.dumps(dict(wanted)))  # as they would be read back
    if changed := [key for key in {**kept, **now} if kept.get(key) != now.get(key)]:
        raise InputError(
            f"{folder} was trained with other settings than this study has now: {shortened(sorted(changed))}. Give another "
            "--work, or delete this folder."
        )
