"""A run that starts from the network of another one: tasks that it had keep their masks, heads and norm statistics, the trunk
keeps its weights, and new tasks get masks and heads of their own."""

from pathlib import Path
from typing import Any

import torch

from matl_scale.errors import InputError
from matl_scale.models.network import RoutedModel
from matl_scale.routing.batch_norm import task_norms
from matl_scale.runs.checkpoints.checkpoint import CheckpointInfo, open_checkpoint
from matl_scale.runs.checkpoints.masks import MASK_SUFFIX
from matl_scale.train.config import Config
from matl_scale.train.run_data import RunData

MODEL_KEYS = ("model.name", "model.width", "model.stem", "routing.statistics")


def find_start(config: Config) -> CheckpointInfo | None:
    """Returns the checkpoint that `run.start_from` names, or the newest one of the run that it names.

    Raises:
        InputError: There is none, or it is damaged.
    """
    if not config.run.start_from:
        return None
    try:
        return open_checkpoint(Path(config.run.start_from))
    except InputError as error:
        raise InputError(f"`run.start_from`: {error}") from error


def check_start(start: CheckpointInfo, config: dict[str, dict[str, Any]], data: RunData) -> None:
    """Raises `InputError` if a run with this config cannot start from the checkpoint's network."""
    for key in MODEL_KEYS:
        section, _, name = key.partition(".")
        before, now = start.config[section][name], config[section][name]
        if before != now:
            raise InputError(f"`run.start_from`: {start.folder} was trained with `{key}` = {before!r}, not {now!r}.")
    for task in data.tasks:
        before = start.tasks.get(task.name, task.num_classes)
        if before != task.num_classes:
            raise InputError(
                f"`run.start_from`: task `{task.name}` has {before} classes in {start.folder}, and {task.num_classes} here. Give "
                "the changed task another name (matl-data tasks rename)."
            )


def take_over(model: RoutedModel, state: dict[str, Any], rows: list[int | None]) -> None:
    """Puts the weights of another run into a network: trunk, and per task what it had there.

    Args:
        model: Built with that run's masks for the tasks that it had.
        state: Loaded from that run's checkpoint; its moving average if it kept one, since that is what was evaluated.
        rows: For each task its number there, None for a new one.
    """
    earlier = state["model"]
    if state["ema"] is not None:
        earlier = {name.removeprefix("module."): value for name, value in state["ema"].items() if name != "n_averaged"}
    statistics = {id(norm.running) for norm in task_norms(model) if norm.statistics == "task"}
    statistics |= {id(norm.num_updates) for norm in task_norms(model) if norm.statistics == "task"}
    kept = [(here, there) for here, there in enumerate(rows) if there is not None]
    with torch.no_grad():
        for name, value in model.trunk.state_dict(keep_vars=True).items():
            if name.endswith(MASK_SUFFIX):
                continue
            source = earlier[f"trunk.{name}"].to(value)
            if id(value) in statistics:
                for here, there in kept:
                    value[here] = source[there]
            else:
                value.copy_(source)
        for here, there in kept:
            for name, value in model.heads[here].state_dict(keep_vars=True).items():
                value.copy_(earlier[f"heads.{there}.{name}"])


def describe_start(start: CheckpointInfo, rows: list[int | None]) -> str:
    """Says in one line what a run starts from."""
    new = rows.count(None)
    return f"starting from {start.folder} (step {start.step}): {len(rows) - new} tasks go on, {new} are new"
