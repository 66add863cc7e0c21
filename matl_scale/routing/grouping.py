"""Which tasks share a route: every task is in one group, no group is empty. Pure functions of their arguments, without torch."""

import numpy as np

from matl_scale.errors import InputError
from matl_scale.seeds import derive_seed

# Subtracted from the mean affinity of two groups that together have all tasks, and in proportion from that of smaller ones: half
# of what counts as a weak association (0.1: Cohen, 1988), so that sizes decide where labels hardly tell tasks apart. A route
# with one of a hundred tasks would have as many batches as another one for the rest.
SIZE_PENALTY = 0.05


def group_in_order(num_tasks: int, num_groups: int) -> np.ndarray:
    """Groups tasks that follow each other; sizes differ by at most one.

    Returns:
        The group of each task, int64, shape `(num_tasks,)`; groups are numbered in the order of their first tasks.

    Raises:
        InputError: `num_groups` is not from 1 to the number of tasks.
    """
    check_num_groups(num_tasks, num_groups)
    return np.arange(num_tasks, dtype=np.int64) * num_groups // num_tasks


def group_at_random(num_tasks: int, num_groups: int, seed: int) -> np.ndarray:
    """Groups tasks at random; otherwise like `group_in_order`."""
    generator = np.random.default_rng(derive_seed(seed, "groups"))
    return number_groups(group_in_order(num_tasks, num_groups)[generator.permutation(num_tasks)])


def group_by_affinity(affinity: np.ndarray, num_groups: int) -> np.ndarray:
    """Groups tasks by average linkage (Sokal, Michener, 1958) with a bound on the size of groups, and a preference for small
    ones, which decides where affinities differ little.

    Every task begins as a group of its own. Of all pairs of groups that together do not exceed `max_group_size`, the pair with
    the highest mean affinity, less `SIZE_PENALTY` times their share of all tasks, is merged, until `num_groups` are left. There
    always is such a pair: of more than `num_groups` groups, the two smallest together are within the bound.

    Args:
        affinity: How strongly two tasks go together, symmetric, shape `(num_tasks, num_tasks)`; NaN where it is unknown, which
            counts as the mean of what is known. The diagonal does not matter.
        num_groups: From 1 to the number of tasks.

    Returns:
        The group of each task, int64, shape `(num_tasks,)`; groups are numbered in the order of their first tasks.

    Raises:
        InputError: `num_groups` is out of range.
    """
    num_tasks = len(affinity)
    check_num_groups(num_tasks, num_groups)
    means, largest, penalty = fill_unknown(affinity), max_group_size(num_tasks, num_groups), SIZE_PENALTY / num_tasks
    groups, sizes = np.arange(num_tasks, dtype=np.int64), np.ones(num_tasks, dtype=np.int64)
    # The best partner of each group and how close it is. A merged group is never closer to another one than both of its halves
    # were, and a pair that is too large stays so: `best` may become too high but not too low. A partner is searched anew
    # only when its group comes first and the partner no longer is as close.
    partners = means.argmax(axis=1)
    best = means[groups, partners] - 2 * penalty
    for _ in range(num_tasks - num_groups):
        one = best.argmax()
        while means[one, partners[one]] - penalty * (sizes[one] + sizes[partners[one]]) != best[one]:
            closeness = means[one] - penalty * (sizes[one] + sizes)
            partners[one] = closeness.argmax()
            best[one] = closeness[partners[one]]
            one = best.argmax()
        kept, merged = sorted((int(one), int(partners[one])))
        row = (sizes[kept] * means[kept] + sizes[merged] * means[merged]) / (sizes[kept] + sizes[merged])
        sizes[kept], sizes[merged] = sizes[kept] + sizes[merged], 0
        groups[groups == merged] = kept
        row[sizes + sizes[kept] > largest] = -np.inf
        row[[kept, merged]] = -np.inf
        means[kept], means[:, kept] = row, row
        means[merged], means[:, merged], best[merged] = -np.inf, -np.inf, -np.inf
        closeness = row - penalty * (sizes[kept] + sizes)
        partners[kept] = closeness.argmax()
        best[kept] = closeness[partners[kept]]
        higher = closeness > best  # by rounding
        partners[higher], best[higher] = kept, closeness[higher]
    return number_groups(groups)


def max_group_size(num_tasks: int, num_groups: int) -> int:
    """Returns how many tasks `group_by_affinity` puts into a group at most: two of `num_groups` + 1 equal parts, rounded down."""
    return 2 * num_tasks // (num_groups + 1)


def fill_unknown(affinity: np.ndarray) -> np.ndarray:
    """Copies affinities as float64, shape `(num_tasks, num_tasks)`: unknown ones become the mean of the known ones, and a task
    is no partner of itself."""
    filled = affinity.astype(np.float64)
    np.fill_diagonal(filled, np.nan)
    unknown = np.isnan(filled)
    filled[unknown] = 0 if unknown.all() else np.nanmean(filled)
    np.fill_diagonal(filled, -np.inf)
    return filled


def number_groups(groups: np.ndarray) -> np.ndarray:
    """Numbers groups from 0 in the order of their first tasks, int64, shape `(num_tasks,)`."""
    _, first, numbers = np.unique(groups, return_index=True, return_inverse=True)
    return first.argsort().argsort()[numbers].astype(np.int64)


def check_num_groups(num_tasks: int, num_groups: int) -> None:
    """Raises `InputError` unless every group can have a task."""
    if not 1 <= num_groups <= num_tasks:
        raise InputError(f"`num_groups` should be from 1 to the number of tasks, {num_tasks}. Got {num_groups}.")
