"""Which class the figures of a two-class task are of: its positive class, by what a run's folder says of the task's classes.

Runs of every version say it: in the description of a checkpoint, or in the metadata of stored predictions.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from matl_scale.errors import InputError
from matl_scale.runs.layout import CHECKPOINT_FILE, RunFolder
from matl_scale.runs.predictions import read_predictions_info
from matl_scale.tasks import Task


def read_positive_classes(folder: Path) -> dict[str, str]:
    """Returns the positive class of each task of two classes by the task's name, as far as the run's folder tells classes."""
    found: dict[str, str | None] = {}
    for task in described_tasks(folder):
        found.setdefault(task.name, task.positive)
    return {name: positive for name, positive in found.items() if positive is not None}


def described_tasks(folder: Path) -> Iterator[Task]:
    """Yields the tasks that checkpoints and predictions describe, of the newest first; damaged files describe none."""
    files = RunFolder(folder)
    for root in (files.checkpoints_folder, files.best_folder):
        for path in sorted(root.glob(f"step-*/{CHECKPOINT_FILE}"), reverse=True):
            yield from tasks_of_checkpoint(path)
    for path in sorted(folder.glob("predictions-*.parquet")):
        try:
            yield from read_predictions_info(path).tasks
        except InputError:
            continue


def tasks_of_checkpoint(path: Path) -> list[Task]:
    """Returns the tasks of a checkpoint by its description; none if it cannot be read."""
    try:
        classes = dict(json.loads(path.read_text(encoding="utf-8"))["classes"])
        return [Task(name=name, classes=tuple(names)) for name, names in classes.items()]
    except (OSError, ValueError, KeyError, TypeError):
        return []
