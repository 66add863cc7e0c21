"""How strongly the labels of tasks are associated, for all pairs of tasks."""

from collections.abc import Sequence

import numpy as np

from matl_scale.data.shards.contingency import PairStatistics, measure_pairs
from matl_scale.data.shards.labels import Labels
from matl_scale.data.shards.manifest import Manifest
from matl_scale.data.shards.open_labels import open_labels
from matl_scale.tasks import Task

MIN_COMMON = 20  # samples with both labels; fewer say nothing about two tasks


def cramers_v(labels: Labels, tasks: Sequence[Task]) -> np.ndarray:
    """Computes the bias-corrected Cramér's V of every pair of tasks over the samples with both labels: from 0, independent, to
    1, where one label determines the other.

    Without the correction, labels that are independent seem associated, the more so the fewer the samples and the more the
    classes. Source: W. Bergsma, A bias-correction for Cramér's V and Tschuprow's T, Journal of the Korean Statistical Society
    42, 2013. Of a large set, evenly spaced samples are taken, see `measure_pairs`.

    Args:
        labels: The labels.
        tasks: The tasks, in the order of the labels.

    Returns:
        float32, symmetric, shape `(num_tasks, num_tasks)`. It is NaN, unknown, where fewer than `MIN_COMMON` samples have both
        labels, or all of them have the same class of one task.
    """
    values = np.full((len(tasks), len(tasks)), np.nan, dtype=np.float32)
    for task_ids, other_ids, statistics in measure_pairs(labels, np.array([task.num_classes for task in tasks])):
        block = correct(statistics).astype(np.float32)
        values[np.ix_(task_ids, other_ids)] = block
        values[np.ix_(other_ids, task_ids)] = block.T
    # rounding differs between the halves of what a block's pairs with itself give
    symmetric: np.ndarray = np.maximum(values, values.T)
    return symmetric


def correct(statistics: PairStatistics) -> np.ndarray:
    """Computes the bias-corrected Cramér's V, shape `(num_tasks, num_other_tasks)`; NaN where it is unknown."""
    degrees, other_degrees = statistics.num_classes - 1.0, statistics.num_other_classes - 1.0
    samples = np.maximum(statistics.num_samples, 2) - 1.0
    excess = np.maximum(statistics.phi_squared - degrees * other_degrees / samples, 0)
    # at most 0: one class, or as many classes as samples
    largest = np.minimum(degrees - degrees**2 / samples, other_degrees - other_degrees**2 / samples)
    known = (statistics.num_samples >= MIN_COMMON) & (largest > 0)
    squares = np.divide(excess, largest, out=np.full(excess.shape, np.nan), where=known)
    values: np.ndarray = np.sqrt(np.minimum(squares, 1))
    return values


def mean_between_routes(values: np.ndarray, route_of: Sequence[int]) -> np.ndarray:
    """Averages what is known of pairs of tasks, over all pairs of a task of one route and a task of another one.

    Args:
        values: Symmetric, shape `(num_tasks, num_tasks)`, NaN where it is unknown. The diagonal does not matter.
        route_of: The index of each task's route. No route is without a task.

    Returns:
        Shape `(num_routes, num_routes)`, NaN where nothing is known; on the diagonal the mean over pairs of tasks of the same
        route. With a route for every task it has the values themselves beside the diagonal.
    """
    order = np.argsort(route_of, kind="stable")
    starts = np.flatnonzero(np.diff(np.asarray(route_of)[order], prepend=-1))
    sorted_values = values[np.ix_(order, order)]
    np.fill_diagonal(sorted_values, np.nan)
    known = np.isfinite(sorted_values)
    sums, counts = (sum_blocks(matrix, starts) for matrix in (np.where(known, sorted_values, 0), known))
    means: np.ndarray = np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)
    return means


def sum_blocks(matrix: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Sums the blocks of a square matrix whose rows and columns begin at `starts`."""
    rows = np.add.reduceat(matrix, starts, axis=0, dtype=np.float64)
    blocks: np.ndarray = np.add.reduceat(rows, starts, axis=1)
    return blocks


def strongest_pairs(values: np.ndarray, names: Sequence[str], limit: int) -> list[tuple[str, str, float]]:
    """Returns the pairs of tasks with the strongest association, strongest first."""
    rows, columns = np.tril_indices(len(names), -1)
    strength = np.nan_to_num(values[rows, columns], nan=-1.0)
    order = np.argsort(-strength, kind="stable")[:limit].tolist()
    return [(names[int(rows[i])], names[int(columns[i])], float(strength[i])) for i in order if strength[i] >= 0]


def associate(manifest: Manifest) -> np.ndarray:
    """Computes the bias-corrected Cramér's V of every pair of tasks of a shard set, see `cramers_v`."""
    return cramers_v(open_labels(manifest).labels, manifest.tasks)
