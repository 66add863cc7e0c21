"""The samples with a label for one of several tasks, from the route cache where a set is large."""

from collections.abc import Mapping, Sequence

import numpy as np

from matl_scale.data.loading.members import Marked, Members
from matl_scale.data.loading.plan import ALL_ROUTES
from matl_scale.data.shards.label_marks import RouteCache
from matl_scale.data.shards.labels import Labels
from matl_scale.data.shards.layout import MISSING
from matl_scale.routes import Routes

CACHED_FROM = 1 << 24  # marks, one for each sample and route: fewer take less than a second to make, and two megabytes

Found = tuple[dict[int, Members], list[str]]  # samples by route, and what the user should know, in lines


def open_route_samples(cache: RouteCache, labels: Labels, routes: Routes, fills: np.ndarray) -> Found:
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
    return open_groups(cache, labels, dict(enumerate(routes.tasks_of)), fills)


def open_labelled_samples(cache: RouteCache, labels: Labels, fills: np.ndarray) -> Found:
    """Opens the samples that carry a label for any task, as those of `ALL_ROUTES`; see `open_route_samples`."""
    return open_groups(cache, labels, {ALL_ROUTES: range(labels.num_tasks)}, fills)


def open_groups(cache: RouteCache, labels: Labels, tasks_of: Mapping[int, Sequence[int]], fills: np.ndarray) -> Found:
    chosen = {
        route: tasks for route, tasks in tasks_of.items() if len(tasks) > 1 and (fills[list(tasks)] == MISSING).all()
    }
    if not labels.origin or len(chosen) * labels.num_samples < CACHED_FROM:
        return {}, []
    marks, notes = cache.open(labels, list(chosen.values()))
    if marks is None:
        return {}, notes
    return {route: Marked(marks, group) for group, route in enumerate(chosen)}, notes
