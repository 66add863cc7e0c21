"""Whether a checkpoint fits the run that wants to go on from it."""

from typing import Any

from matl_scale.errors import InputError, shortened
from matl_scale.runs.checkpoints.checkpoint import CheckpointInfo

FIXED_KEYS = ("model.name", "model.width", "model.stem", "routing.statistics", "optim.name", "run.seed")


def check_network(info: CheckpointInfo, *, tasks: dict[str, int], masks: str) -> None:
    """Raises `InputError` if the checkpoint's network has other tasks or masks than the one at hand.

    Args:
        info: The checkpoint.
        tasks: Number of classes by task name, in order.
        masks: From `hash_masks`.
    """
    check_tasks(info, tasks=tasks)
    if info.masks != masks:
        raise InputError(
            f"{info.folder} has other routing masks than this config draws. Use its `routing`, `model` and `run.seed` "
            "settings, or another `run.name`."
        )


def check_tasks(info: CheckpointInfo, *, tasks: dict[str, int]) -> None:
    """Raises `InputError` if the checkpoint's network has other tasks, by name, order or number of classes."""
    if list(info.tasks.items()) != list(tasks.items()):
        different = [name for name in {**info.tasks, **tasks} if info.tasks.get(name) != tasks.get(name)]
        raise InputError(
            f"{info.folder} was trained on other tasks ({len(info.tasks)}, here {len(tasks)}; they differ in "
            f"{shortened(different or tasks)}). Use its `data.tasks`, or another `run.name`."
        )


def check_resumable(info: CheckpointInfo, *, config: dict[str, dict[str, Any]], shards: str) -> None:
    """Raises `InputError` if a run with this config and these training tars cannot go on from the checkpoint."""
    if info.shards != shards:
        raise InputError(f"{info.folder} was trained on another shard set. Use its `data.path`, or another `run.name`.")
    for key in FIXED_KEYS:
        section, _, name = key.partition(".")
        before, now = info.config[section][name], config[section][name]
        if before != now:
            raise InputError(
                f"{info.folder} was trained with `{key}` = {before!r}, not {now!r}. Choose another `run.name`."
            )
    if config["train"]["ema_decay"] and not info.config["train"]["ema_decay"]:
        raise InputError(f"{info.folder} keeps no moving average: `train.ema_decay` should be 0 to go on from it.")
