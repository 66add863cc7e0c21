"""What a run finds in its folder when it starts: nothing, a checkpoint to resume from, or another run's network.

The first rank looks, once, and all ranks learn what it found: their file systems need not agree at every moment.
"""

import contextlib
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from accelerate import Accelerator

from matl_scale.errors import InputError
from matl_scale.routing.masks import DRAWN
from matl_scale.runs.checkpoints.checkpoint import CheckpointInfo, checkpoint_folders, find_intact, open_checkpoint
from matl_scale.runs.layout import LOCK_FILE, RunFolder
from matl_scale.runs.records import LocalLog
from matl_scale.storage.locks import lock_folder
from matl_scale.train.config import RunConfig, read_saved
from matl_scale.train.process_group import on_main
from matl_scale.train.resume.start_from import find_start


@dataclass(frozen=True, kw_only=True)
class OpenedRun:
    """What the first rank has found."""

    checkpoint: CheckpointInfo | None  # the checkpoint to resume from, if there is one
    # the checkpoint of another run whose network a new run starts with, if `run.start_from` names one
    start: CheckpointInfo | None
    complaints: list[str]  # what is wrong with newer checkpoints of the run
    evaluations: set[tuple[int, str]]  # step and split of each evaluation that the run has recorded

    def has_evaluation(self, step: int, split: str) -> bool:
        """Returns whether an evaluation was recorded; else the run ended before it or in it."""
        return (step, split) in self.evaluations

    @property
    def label_version(self) -> str:
        """The version of the labels that the run began with; empty for a new run."""
        return read_saved(self.checkpoint.config).data.version if self.checkpoint else ""

    @property
    def old_tasks(self) -> Collection[str]:
        """The tasks of the network that the run started from, as far as they are frozen or may be."""
        if self.checkpoint:
            return self.checkpoint.frozen
        return self.start.classes if self.start else ()

    @property
    def has_masks(self) -> bool:
        """Whether what was found has masks that this run's config cannot draw: those of another run, or of a strategy that draws
        them from more than a config."""
        if self.checkpoint is None:
            return self.start is not None
        earlier = read_saved(self.checkpoint.config)
        return bool(earlier.run.start_from) or earlier.routing.strategy not in DRAWN


def open_run(accelerator: Accelerator, stack: contextlib.ExitStack, config: RunConfig) -> OpenedRun:
    """Locks the run's folder until `stack` is closed, and finds out what the run resumes from. All ranks have to call it.

    Raises:
        InputError: Another process works in the folder, or what `run.resume` or `run.start_from` names cannot be used.
    """

    def find() -> OpenedRun:
        folder = RunFolder(config.folder)
        stack.enter_context(lock_run(folder.path))
        checkpoint, complaints = find_checkpoint(folder, config.resume)
        return OpenedRun(
            checkpoint=checkpoint,
            start=None if checkpoint else find_start(config.start_from),
            complaints=complaints,
            evaluations=set(LocalLog(folder.path).evaluations()),
        )

    return on_main(accelerator, find)


@contextlib.contextmanager
def lock_run(folder: Path) -> Iterator[None]:
    """Creates a run's folder if it does not exist, and holds its lock. A folder that stayed empty is removed at the end.

    Raises:
        InputError: Another process works in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with lock_folder(folder):
        try:
            yield
        finally:
            if [path.name for path in folder.iterdir()] == [LOCK_FILE]:
                (folder / LOCK_FILE).unlink()
                folder.rmdir()


def find_checkpoint(folder: RunFolder, resume: str) -> tuple[CheckpointInfo | None, list[str]]:
    """Returns the checkpoint to resume from, if any, and what is wrong with newer ones.

    Raises:
        InputError: `resume` forbids resuming, or the checkpoint cannot be used.
    """
    checkpoints = folder.checkpoints_folder
    if was_started_before() and (resume == "never" or checkpoint_folders(checkpoints)):
        return find_intact(checkpoints)
    if resume not in ("auto", "never"):
        return open_checkpoint(Path(resume)), []
    if resume == "auto":
        return find_intact(checkpoints)
    if checkpoints.exists() or folder.metrics_file.exists():
        raise InputError(
            f"{folder.path} is not empty: it holds an earlier run. Choose another `run.name`, or `run.resume` auto to resume it."
        )
    return None, []


def was_started_before() -> bool:
    """Returns whether Slurm or torchrun starts this very command again: the run then resumes from what it has written."""
    return any(os.environ.get(name, "0") != "0" for name in ("SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT"))
