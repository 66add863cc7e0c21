"""The samples of routes that train several tasks, from the route cache where a set is large."""

import numpy as np

from matl_scale.data.loading.members import Marked, Members
from matl_scale.data.shards.label_marks import RouteCache
from matl_scale.data.shards.labels import Labels
from matl_scale.data.shards.layout import MISSING
from matl_scale.routes import Routes

CACHED_FROM = 1 << 24  # marks, one for each sample and route: fewer are made within a second, and take two megabytes


def open_route_samples(
    cache: RouteCache, labels: Labels, routes: Routes, fills: np.ndarray
) -> tuple[dict[int, Members], list[str]]:
    """Opens the samples that carry a label for a route, for every route that trains several tasks.

    Args:
        cache: Of the set.
        labels: The labels of the training split.
        routes: Which tasks a route trains.
        fills: What missing labels of each task count as, shape `(num_tasks,)`. A route with a task whose missing labels are
            filled is left out: all samples are its own.

    Returns:
        The samples by route, none if there are few or no folder can be written, and what the user should know, in lines.
    """
    chosen = [
        route for route, tasks in enumerate(routes.tasks_of) if len(tasks) > 1 and (fills[list(tasks)] == MISSING).all()
    ]
    if not labels.origin or len(chosen) * labels.num_samples < CACHED_FROM:
        return {}, []
    marks, notes = cache.open(labels, [routes.tasks_of[route] for route in chosen])
    if marks is None:
        return {}, notes
    return {route: Marked(marks, group) for group, route in enumerate(chosen)}, notes
