"""What a run finds in its folder when it starts, and what it leaves there."""

import contextlib
from dataclasses import asdict
from pathlib import Path

from matl_scale.config import Config, describe_changes, dump_config
from matl_scale.errors import InputError
from matl_scale.files import lock_folder, write_text
from matl_scale.tracking.local import METRICS_FILE, LocalLog
from matl_scale.train.checkpoint import (
    CHECKPOINTS,
    CheckpointInfo,
    hash_masks,
    list_checkpoints,
    read_info,
    save_checkpoint,
    set_aside_after,
)
from matl_scale.train.setup import TRAIN_SPLIT, RunData
from matl_scale.train.state import TrainState

CONFIG_FILE = "config.yaml"


def find_checkpoint(config: Config) -> CheckpointInfo | None:
    """Returns the checkpoint to go on from, by `run.resume`."""
    folder = config.run.folder
    if config.run.resume not in ("auto", "never"):
        return read_info(Path(config.run.resume))
    found = list_checkpoints(folder / CHECKPOINTS)
    if config.run.resume == "auto":
        return found[-1] if found else None
    if found or (folder / METRICS_FILE).exists():
        raise InputError(
            f"{folder} is not empty: it holds an earlier run. Choose another `run.name`, or `run.resume` auto to go on."
        )
    return None


def open_folder(config: Config, kept: tuple[float, float], step: int, stack: contextlib.ExitStack) -> None:
    """Locks the run's folder, writes the config into it, and drops what an earlier start left after `step`.

    Args:
        config: Of the run.
        kept: Smallest and largest share of a layer's units that a task keeps.
        step: Steps done.
        stack: Holds the lock.
    """
    folder = config.run.folder
    folder.mkdir(parents=True, exist_ok=True)
    stack.enter_context(lock_folder(folder))
    write_text(folder / CONFIG_FILE, f"# {describe_kept(config, kept)}\n{dump_config(config)}")
    LocalLog(folder).forget_after(step)
    set_aside_after(folder / CHECKPOINTS, step)


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
        changes.append(f"world size: {checkpoint.world_size} → {world_size}")
    if checkpoint.manifest_id != data.manifest.id:
        changes.append(f"labels or other splits of {data.manifest.root} have changed")
    newest = data.manifest.entries[-1]["version"]
    if data.manifest.version != newest:
        changes.append(f"labels are those of version {data.manifest.version}; the newest is {newest} (`data.version`)")
    return changes


def save_state(config: Config, data: RunData, state: TrainState, world_size: int) -> None:
    """Writes a checkpoint of the state."""
    info = {
        "masks": hash_masks(state.model),
        "tasks": list(data.num_classes.items()),
        "shards": data.hash_shards(TRAIN_SPLIT),
        "manifest_id": data.manifest.id,
        "world_size": world_size,
        "config": asdict(config),
    }
    root = config.run.folder / CHECKPOINTS
    save_checkpoint(root, state.step, state.state_dict(), info, config.checkpoint.keep)
