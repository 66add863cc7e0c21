"""What a run finds in its folder when it starts, and what it leaves there."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from matl_scale.errors import InputError
from matl_scale.runs.checkpoints.checkpoint import CheckpointInfo, checkpoint_folders, find_intact, open_checkpoint
from matl_scale.runs.checkpoints.writing import drop_after, set_aside_after
from matl_scale.runs.layout import LOCK_FILE, RunFolder
from matl_scale.runs.records import LocalLog
from matl_scale.storage.files import write_text
from matl_scale.storage.locks import lock_folder
from matl_scale.train.config import Config, describe_changes, dump_config
from matl_scale.train.run_data import RunData
from matl_scale.train.schedule import is_due


@contextlib.contextmanager
def lock_run(folder: Path) -> Iterator[None]:
    """Makes a run's folder if it is not there and holds its lock. A folder that nothing was written into goes again.

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


def find_checkpoint(config: Config) -> tuple[CheckpointInfo | None, list[str]]:
    """Returns the checkpoint to go on from, by `run.resume`, and what is wrong with newer ones."""
    folder = config.run.folder
    if was_started_before() and (
        config.run.resume == "never" or checkpoint_folders(RunFolder(folder).checkpoints_folder)
    ):
        return find_intact(RunFolder(folder).checkpoints_folder)
    if config.run.resume not in ("auto", "never"):
        return open_checkpoint(Path(config.run.resume)), []
    if config.run.resume == "auto":
        return find_intact(RunFolder(folder).checkpoints_folder)
    if RunFolder(folder).checkpoints_folder.exists() or RunFolder(folder).metrics_file.exists():
        raise InputError(
            f"{folder} is not empty: it holds an earlier run. Choose another `run.name`, or `run.resume` auto to go on."
        )
    return None, []


def was_started_before() -> bool:
    """Returns whether Slurm or torchrun starts this very command again: the run then goes on with what it has written."""
    return any(os.environ.get(name, "0") != "0" for name in ("SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT"))


def lacks_evaluation(config: Config, step: int) -> bool:
    """Returns whether the evaluation that belongs to `step` is missing, because the run was ended before or in it."""
    return (
        is_evaluated_after(config, step) and (step, config.eval.split) not in LocalLog(config.run.folder).evaluations()
    )


def open_folder(config: Config, kept: tuple[float, float], step: int) -> None:
    """Writes the config into the run's folder, and drops what an earlier start left after `step`.

    Args:
        config: Of the run.
        kept: Smallest and largest share of a layer's units that a task keeps.
        step: Steps done.
    """
    folder = config.run.folder
    write_text(RunFolder(folder).config_file, f"# {describe_kept(config, kept)}\n{dump_config(config)}")
    LocalLog(folder).forget_after(step)
    set_aside_after(RunFolder(folder).checkpoints_folder, step)
    drop_after(RunFolder(folder).best_folder, step)


def is_evaluated_after(config: Config, step: int) -> bool:
    """Returns whether an evaluation follows a step."""
    return step > 0 and (is_due(step, config.eval.every) or step == config.train.steps)


def describe_kept(config: Config, kept: tuple[float, float]) -> str:
    """Says what σ came to in whole units, for the first line of the run's config."""
    share = f"{kept[0]:.4g}" if kept[0] == kept[1] else f"{kept[0]:.4g} to {kept[1]:.4g}"
    routing = config.routing
    return (
        f"routing.sigma = {routing.sigma} (strategy {routing.strategy}, align {routing.align}): a task keeps {share} of a "
        "layer's units"
    )


def changes_since(checkpoint: CheckpointInfo, config: Config, data: RunData, world_size: int) -> list[str]:
    """Lists in what a run that goes on differs from the one that wrote the checkpoint."""
    changes = describe_changes(checkpoint.config, config)
    if checkpoint.world_size != world_size:
        changes.append(describe_world_size(checkpoint, config, world_size))
    if checkpoint.manifest_id != data.manifest.id:
        changes.append(f"labels or other splits of {data.manifest.root} have changed")
    newest = data.manifest.entries[-1]["version"]
    if data.manifest.version != newest:
        changes.append(f"labels are those of version {data.manifest.version}; the newest is {newest} (`data.version`)")
    return changes


def describe_world_size(checkpoint: CheckpointInfo, config: Config, world_size: int) -> str:
    """Says what another number of ranks means for a run that goes on."""
    slots_before = checkpoint.world_size * checkpoint.config["train"]["accumulate"]
    slots = world_size * config.train.accumulate
    text = f"world size: {checkpoint.world_size} → {world_size}"
    if slots == slots_before:
        return f"{text}; a step still averages over {slots} batches, so the network stays the same to rounding"
    hint = ""
    if slots_before % world_size == 0:
        hint = f" (train.accumulate {slots_before // world_size} would keep {slots_before})"
    return f"{text}; a step averages over {slots} batches instead of {slots_before}{hint}"
