"""Builds the assignment of tasks to routes with which a run works."""

from dataclasses import replace

import numpy as np

from matl_scale.automatic import AUTO, chosen
from matl_scale.data.loading.missing import choose_fills
from matl_scale.data.shards.layout import MISSING
from matl_scale.errors import InputError
from matl_scale.models.pass_cost import measure_pass
from matl_scale.models.transformers import has_patches
from matl_scale.runs.checkpoints.checkpoint import CheckpointInfo
from matl_scale.runs.checkpoints.compatibility import check_tasks
from matl_scale.train.add_tasks import check_whole_heads, extend_routes
from matl_scale.train.choose_routes import (
    ChosenRoutes,
    TrainLabels,
    check_resumed_routes,
    choose_routes,
)
from matl_scale.train.config import Config, read_saved
from matl_scale.train.lay_masks import add_closeness, describe_added
from matl_scale.train.run_data import TRAIN_SPLIT, RunData


def build_routes(
    config: Config, data: RunData, checkpoint: CheckpointInfo | None, start: CheckpointInfo | None
) -> ChosenRoutes:
    """Chooses which tasks share a route. A run that resumes keeps the routes of its checkpoint, one that starts with a network
    extends those of the network (but for `magnitude`, where that is dense), and any other chooses them anew.

    Raises:
        InputError: `routing.routes` does not fit the tasks, that checkpoint, or that network; or `routing.strategy` does not
            fit the routes.
    """
    labels = TrainLabels(
        tasks=data.tasks,
        labels=data.labels_of(TRAIN_SPLIT),
        seed=config.run.seed,
        balanced=config.data.balance > 0,
        filled=np.flatnonzero(choose_fills(config.data.missing, data.tasks, config.data.balance) != MISSING).tolist(),
    )
    if checkpoint is not None:
        check_tasks(checkpoint, tasks=data.num_classes)
        earlier = read_saved(checkpoint.config).routing
        check_resumed_routes(config.routing, earlier, checkpoint.routes, labels.names, checkpoint.folder)
        found = ChosenRoutes(routes=checkpoint.routes, setting=earlier.routes)
    elif start is not None and config.routing.strategy != "magnitude":
        if config.run.freeze == "old":
            check_whole_heads(labels, start.routes, list(start.classes))
        cost = build_pass_cost(config, labels, data.image_size)
        found = extend_routes(config.routing, labels, start.routes, list(start.classes), cost)
        if config.routing.strategy == "affinity":
            found = replace(found, mask_note=describe_added(start.routes, found.routes))
    else:
        found = choose_routes(config.routing, labels, build_pass_cost(config, labels, data.image_size))
        if config.routing.strategy == "affinity":
            found = add_closeness(found, config.routing, labels)
    if labels.balanced and found.routes.shared_by_tasks:
        raise InputError(
            f"`data.balance` should be 0 where a route serves several tasks: here {len(data.tasks)} tasks share "
            f"{found.routes.num_routes} routes, and a sample drawn for a class of one task comes with the labels of the others. "
            "Set `data.balance` to 0, or `routing.routes` to task."
        )
    return found


def build_pass_cost(config: Config, labels: TrainLabels, image_size: int) -> float | None:
    """Returns what a pass of a route costs beside the trunk, where `auto` needs it and σ alone does not say it; else None."""
    routing = config.routing
    is_usual = routing.layers == ["*"] and routing.strategy != "partition" and not has_patches(config.model.name)
    is_sigma_enough = is_usual and not routing.first_layer and len(routing.given_sigmas()) == 1
    if routing.routes != AUTO or routing.sigma == AUTO or is_sigma_enough:
        return None
    expected = min(max(round(1 / max(chosen(routing.sigma), 0.01) ** 2), 2), len(labels.tasks))
    return measure_pass(config.model, routing, expected, config.run.seed, image_size)
