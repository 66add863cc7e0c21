"""What the strategy `affinity` makes of the training labels: how close routes are, and what is said of it."""

from dataclasses import replace

import numpy as np

from matl_scale.data.shards.label_association import MIN_COMMON, mean_between_routes
from matl_scale.errors import InputError
from matl_scale.models.routing_config import RoutingConfig
from matl_scale.routes import Routes
from matl_scale.routing.affinity_masks import Closeness
from matl_scale.train.choose_routes import ChosenRoutes, TrainLabels


def add_closeness(found: ChosenRoutes, config: RoutingConfig, labels: TrainLabels) -> ChosenRoutes:
    """Adds to the routes of a new run how close they are.

    Raises:
        InputError: There is one route alone, or every route keeps all units.
    """
    check_overlap_varies(found, config)
    closeness = measure_closeness(labels, found.routes)
    return replace(found, closeness=closeness, mask_note=describe_closeness(Closeness(values=closeness)))


def check_overlap_varies(found: ChosenRoutes, config: RoutingConfig) -> None:
    """Raises `InputError` where no two masks can overlap more than others."""
    problem = ""
    if found.routes.num_routes == 1:
        problem = f"there is one route alone ({found.reason or 'as `routing.routes` says'})"
    elif all(sigma == 1 for sigma in config.given_sigmas()):
        problem = "with `routing.sigma` = 1 every route has all units"
    if problem:
        raise InputError(
            f"`routing.strategy` = affinity says which routes have units in common, but {problem}. Ask for several routes "
            "(`routing.routes`) with `routing.sigma` below 1, or for the strategy random."
        )


def measure_closeness(labels: TrainLabels, routes: Routes) -> np.ndarray:
    """Returns the mean association of the labels of two routes' tasks, as the report shows it: symmetric, shape
    `(num_routes, num_routes)`, NaN where no two of their labels meet."""
    means = mean_between_routes(labels.affinity(), routes.route_of)
    closeness: np.ndarray = (means + means.T) / 2  # rounding differs between the halves
    return closeness


def describe_closeness(closeness: Closeness) -> str:
    """Says, in a line, how close routes are, and how masks are drawn where that is unknown."""
    pairs = closeness.pairs
    known = pairs[np.isfinite(pairs)]
    why = f"fewer than {MIN_COMMON} training images have labels of both"
    if not len(known):
        return (
            f"routing.strategy affinity: how labels of routes go together is unknown for all {len(pairs):,} pairs of routes "
            f"({why}), so masks are those of the strategy random"
        )
    text = (
        f"routing.strategy affinity: labels of two routes have an association of {known.min():.2f} to {known.max():.2f}, "
        f"{known.mean():.2f} on average"
    )
    if closeness.scale < 0.995:
        text += f"; it counts × {closeness.scale:.2f}, because as it is no masks could overlap like that"
    if len(known) < len(pairs):
        text += (
            f"; for {len(pairs) - len(known):,} of {len(pairs):,} pairs it is unknown ({why}): they count as unrelated, and "
            "overlap as random masks do"
        )
    return text


def describe_added(old: Routes, routes: Routes) -> str:
    """Says, in a line, what masks new routes get beside those of a network to start from; empty if there are none."""
    if added := [name for name in routes.names if name not in old.names]:
        return (
            f"routing.strategy affinity: the masks of {len(added)} new routes are drawn as with random, the others stay"
        )
    return ""
