"""What the strategy of the masks makes of the trunk, and what it costs."""

from collections.abc import Iterator

import numpy as np
from torch import fx

from matl_scale.doctor.finding import Finding
from matl_scale.models.pass_cost import build_routed_outline
from matl_scale.report.mask_overlap import describe_usage, mask_overlap, measure_usage
from matl_scale.routing.router import TaskRouter
from matl_scale.train.choose_routes import ChosenRoutes
from matl_scale.train.config import Config

COSTS = {
    "random": "it costs nothing beside the passes of the routes",
    "partition": "it costs nothing beside the passes of the routes",
    "affinity": "how labels go together is counted once, at the start; training costs what it does with random masks",
}  # of strategies whose masks stay as they are drawn


def check_masks(config: Config, found: ChosenRoutes) -> Iterator[Finding]:
    """Says how many units routes keep and have in common at the start, and what the strategy adds to the cost."""
    routing, num_routes = config.routing, found.routes.num_routes
    if found.mask_note:
        yield Finding("note", "masks", f"{found.mask_note}.")
    if config.model.is_heads_alone:
        yield Finding("ok", "masks", "heads alone are trained, on features: there is nothing to route.")
        return
    cost = f" Strategy {routing.strategy}: {COSTS[routing.strategy]}." if routing.strategy in COSTS else ""
    if config.run.start_from:
        yield Finding("ok", "masks", f"routes of the network to start from keep the masks that they have there.{cost}")
        return
    masks = masks_of(build_routed_outline(config.model, routing, num_routes, config.run.seed, found.closeness))
    overlap = mask_overlap(masks)[np.tril_indices(num_routes, -1)]
    text = " ".join(describe_usage(measure_usage(masks), overlap))
    yield Finding("ok", "masks", text + cost)


def masks_of(trunk: fx.GraphModule) -> dict[str, np.ndarray]:
    """Returns the masks of a trunk by layer, bool, shape `(num_routes, num_units)`."""
    return {name: module.mask.cpu().numpy() for name, module in trunk.named_modules() if isinstance(module, TaskRouter)}
