"""Whether consecutive micro-steps can have the same images (`data.share`)."""

import numpy as np

from matl_scale.automatic import chosen
from matl_scale.errors import InputError, shortened
from matl_scale.routes import Routes
from matl_scale.train.config import Config
from matl_scale.train.step.sampling import RouteSampler


def check_share(config: Config, routes: Routes, sampler: RouteSampler, coverage: np.ndarray) -> None:
    """Checks that slots which share images have other routes, and enough labels.

    Args:
        config: With the micro-steps of a step chosen.
        routes: Which tasks each route serves.
        sampler: Draws the routes of a step.
        coverage: For each route, the share of all labelled images that carry a label for it, shape `(num_routes,)`.

    Raises:
        InputError: The message says which key to change.
    """
    share, accumulate = config.data.share, chosen(config.train.accumulate)
    if share == 1:
        return
    if accumulate % share:
        raise InputError(
            f"`data.share` should divide the micro-steps of a rank, `train.accumulate` = {accumulate}. Got {share}."
        )
    if share > sampler.num_routes:
        raise InputError(
            f"`data.share` should be at most the number of routes, {sampler.num_routes}: each of the micro-steps that share "
            f"images has another route. Got {share}."
        )
    if sampler.probabilities is None and sampler.num_slots > sampler.num_routes and sampler.num_routes % share:
        raise InputError(
            f"`data.share` should divide the number of routes, {sampler.num_routes}, where a step has more micro-steps than that "
            f"({sampler.num_slots}): else a route would train twice on the same images. Got {share}."
        )
    drawn = sampler.route_ids
    rare = drawn[coverage[drawn] < 1 / share]
    if len(rare):
        found = shortened([f"{routes.names[route]} ({coverage[route]:.1%})" for route in rare.tolist()])
        raise InputError(
            f"`data.share` {share} should suit the labels: a micro-step trains on the images of its batch with a label for its "
            f"route, and for these routes that is fewer than one in {share}, so that nothing would be saved: {found}. Let routes "
            "serve more tasks (`routing.routes`), or use `data.share` 1."
        )
