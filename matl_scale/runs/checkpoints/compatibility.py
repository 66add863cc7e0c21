"""Whether the network of a checkpoint has the same tasks and the same routing masks as the current one."""

from matl_scale.errors import InputError, shortened
from matl_scale.runs.checkpoints.checkpoint import CheckpointInfo


def check_network(info: CheckpointInfo, *, tasks: dict[str, int], masks: str) -> None:
    """Raises `InputError` if the checkpoint's network has other tasks (class counts by name, in order) or masks (`hash_masks`)
    than the current one."""
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
