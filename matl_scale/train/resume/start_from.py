"""A run that starts with the network of another run: tasks that the other run had keep their masks, heads and norm
statistics, the trunk keeps its weights, and new tasks get masks and heads of their own."""

from pathlib import Path
from typing import Any

import torch

from matl_scale.errors import InputError
from matl_scale.models.network import RoutedModel
from matl_scale.routing.batch_norm import task_norms
from matl_scale.runs.checkpoints.checkpoint import CheckpointInfo, open_checkpoint
from matl_scale.runs.checkpoints.masks import MASK_SUFFIX


def find_start(start_from: str) -> CheckpointInfo | None:
    """Returns the checkpoint that `run.start_from` names, or the newest one of the run that it names; None if it is empty.

    Raises:
        InputError: There is none, or it is damaged.
    """
    if not start_from:
        return None
    try:
        return open_checkpoint(Path(start_from))
    except InputError as error:
        raise InputError(f"`run.start_from`: {error}") from error


def copy_weights(model: RoutedModel, state: dict[str, Any], old_tasks: list[int | None]) -> None:
    """Copies the weights of another run into a network: the trunk, and the heads and statistics of the tasks it had.

    Args:
        model: Built with the other run's masks for the tasks that it had.
        state: Loaded from the other run's checkpoint. Its moving average is used if it has one: that is what was evaluated.
        old_tasks: For each task its number in the other run, None for a new task.
    """
    source = state["model"]
    if state["ema"] is not None:
        source = {name.removeprefix("module."): value for name, value in state["ema"].items() if name != "n_averaged"}
    norms = [norm for norm in task_norms(model) if norm.statistics == "task"]
    per_task = {id(value) for norm in norms for value in (norm.running, norm.num_updates)}
    pairs = [(new, old) for new, old in enumerate(old_tasks) if old is not None]
    with torch.no_grad():
        for name, value in model.trunk.state_dict(keep_vars=True).items():
            if name.endswith(MASK_SUFFIX):
                continue
            old_value = source[f"trunk.{name}"].to(value)
            if id(value) in per_task:
                for new, old in pairs:
                    value[new] = old_value[old]
            else:
                value.copy_(old_value)
        for new, old in pairs:
            for name, value in model.heads[new].state_dict(keep_vars=True).items():
                value.copy_(source[f"heads.{old}.{name}"])


def describe_start(start: CheckpointInfo, old_tasks: list[int | None]) -> str:
    """Says in one line what a run starts with."""
    new = old_tasks.count(None)
    return f"starting from {start.folder} (step {start.step}): {len(old_tasks) - new} tasks are kept, {new} are new"
