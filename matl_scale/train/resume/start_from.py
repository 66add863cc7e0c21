"""A run that starts with the network of another run: tasks that the other run had keep their routes with masks, norm statistics
and affine weights of their own, and their heads; the trunk keeps its weights; new tasks join a route or get new ones, with heads
of their own."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from matl_scale.data.loading.config import DataConfig
from matl_scale.errors import InputError
from matl_scale.models.logits import find_columns
from matl_scale.models.network import RoutedModel
from matl_scale.routing.affine import RouteAffine, initial_affine
from matl_scale.routing.batch_norm import route_norms
from matl_scale.runs.checkpoints.checkpoint import CheckpointInfo, open_checkpoint
from matl_scale.runs.checkpoints.masks import MASK_SUFFIX, find_old_tasks
from matl_scale.train.config import RunConfig, read_saved


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


def copy_weights(
    model: RoutedModel, state: dict[str, Any], start: CheckpointInfo, names: Sequence[str], by_task: bool = False
) -> None:
    """Copies the weights of another run into a network: the trunk, the statistics of its routes, and the heads of its tasks.

    Args:
        model: Built with the other run's masks for the routes that it had.
        state: Loaded from the other run's checkpoint. Its moving average is used if it has one: that is what was evaluated.
        start: Describes that checkpoint.
        names: The tasks of the network.
        by_task: The other network is dense. A route then starts with the statistics of the one that its first old task had.

    Raises:
        InputError: `by_task`, and a route of the other network lacks units.
    """
    if by_task and not all(bool(mask.all()) for key, mask in state["model"].items() if key.endswith(MASK_SUFFIX)):
        raise InputError(
            f"`run.start_from`: with `routing.strategy` = magnitude, every route of {start.folder} should have all units, as "
            "after training with `routing.sigma` = 1. Start from such a run, or from none."
        )
    source = state["model"]
    if state["ema"] is not None:
        source = {name.removeprefix("module."): value for name, value in state["ema"].items() if name != "n_averaged"}
    norms = [norm for norm in route_norms(model) if norm.statistics == "route"]
    per_route = {id(value) for norm in norms for value in (norm.running, norm.num_updates)}
    old_routes = {name: number for number, name in enumerate(start.routes.names)}
    pairs = [(new, old_routes[name]) for new, name in enumerate(model.routes.names) if name in old_routes]
    if by_task:
        old_ids = find_old_tasks(start, names)
        known = [[old_ids[task] for task in tasks if old_ids[task] is not None] for tasks in model.routes.tasks_of]
        pairs = [(new, start.routes.route_of[old[0]]) for new, old in enumerate(known) if old and old[0] is not None]
    with torch.no_grad():
        for name, value in model.trunk.state_dict(keep_vars=True).items():
            if name.endswith(MASK_SUFFIX):
                continue
            old_value = source[f"trunk.{name}"].to(value)
            if id(value) in per_route:
                for new, old in pairs:
                    value[new] = old_value[old]
            else:
                value.copy_(old_value)
        if model.affine is not None:
            model.affine.fill(initial_affine(model.trunk))
            copy_affine(model.affine, source, dict(pairs), len(old_routes))
        for task_id, old_id in enumerate(find_old_tasks(start, names)):
            if old_id is not None:
                copy_head(model, task_id, source, start, old_id)


def copy_affine(
    affine: RouteAffine, source: Mapping[str, torch.Tensor], old_of: Mapping[int, int], num_old_routes: int
) -> None:
    """Copies the affine weights of earlier routes to those that continue them: `old_of` says which to which. A new route starts
    from the mean of the earlier ones. Where these shared theirs, all routes keep what they have."""
    if "affine.rows.0" not in source:
        return
    earlier = torch.stack([source[f"affine.rows.{old}"] for old in range(num_old_routes)])
    for new, row in enumerate(affine.rows):
        row.copy_(earlier[old_of[new]] if new in old_of else earlier.mean(dim=0))


def copy_head(
    model: RoutedModel, task_id: int, source: Mapping[str, torch.Tensor], start: CheckpointInfo, old_id: int
) -> None:
    """Copies a task's rows of its head matrix from those that it has in a checkpoint, as the task `old_id`."""
    head, old_head = model.routes.head_of[task_id], start.routes.head_of[old_id]
    rows = find_columns(model.routes.tasks_of_head[head], model.num_classes, task_id)
    old_rows = find_columns(start.routes.tasks_of_head[old_head], list(start.tasks.values()), old_id)
    for name, value in model.heads[head].state_dict(keep_vars=True).items():
        value[rows] = source[f"heads.{old_head}.{name}"][old_rows].to(value)


def find_frozen_tasks(config: RunConfig, old: Collection[str], names: Sequence[str]) -> list[int]:
    """Returns the tasks of a run for which everything stays as it is; `old` are those of the network that it started from.

    Raises:
        InputError: There would be nothing to train.
    """
    if config.freeze != "old":
        return []
    frozen = [task_id for task_id, name in enumerate(names) if name in old]
    if len(frozen) == len(names):
        raise InputError(
            f"`run.freeze` = old leaves nothing to train: all {len(names)} tasks are in {config.start_from}. Add tasks with "
            "`data.tasks`, or set it to nothing."
        )
    return frozen


def describe_start(start: CheckpointInfo, old_tasks: list[int | None], data: DataConfig) -> str:
    """Says in one line what a run starts with, and which images its network had, if they are others now."""
    new, before = old_tasks.count(None), read_saved(start.config).data
    text = f"starting from {start.folder} (step {start.step}): {len(old_tasks) - new} tasks are kept, {new} are new"
    if (before.image_size, before.fit) != (data.image_size, data.fit):
        text += (
            f"; its images had `data.image_size` {before.image_size} and `data.fit` {before.fit}, here {data.image_size} and "
            f"{data.fit}"
        )
    return text
