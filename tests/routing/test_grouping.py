"""Groups of tasks: how many, how large, which; against merging the closest pair searched among all pairs."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from matl_scale.errors import InputError
from matl_scale.routing.grouping import SIZE_PENALTY, group_at_random, group_by_affinity, group_in_order, max_group_size

SIZES = [(1, 1), (2, 1), (2, 2), (7, 3), (40, 1), (40, 7), (40, 39), (40, 40), (97, 10), (100, 64)]


def draw_affinity(generator: np.random.Generator, num_tasks: int, unknown: float = 0, levels: int = 0) -> np.ndarray:
    """Draws symmetric affinities, a share of them unknown; with `levels`, they take few values, so that many are equal."""
    values = np.sqrt(generator.random((num_tasks, num_tasks)))
    if levels:
        values = np.floor(values * levels) / levels
    values[generator.random(values.shape) < unknown] = np.nan
    values = np.tril(values, -1)
    return (values + values.T + np.eye(num_tasks)).astype(np.float32)


def plant_groups(planted: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Makes affinities of 0.3 to 0.4 within groups and of 0 to 0.2 across them."""
    noise = draw_affinity(generator, len(planted)).astype(np.float64)
    return np.where(planted[:, None] == planted, 0.3 + 0.1 * noise, 0.2 * noise)


def partition(groups: np.ndarray) -> set[frozenset[int]]:
    return {frozenset(np.flatnonzero(groups == group).tolist()) for group in np.unique(groups)}


def merge_slowly(affinity: np.ndarray, num_groups: int) -> set[frozenset[int]]:
    """Merges the closest pair of groups within the bound, less for what it has of all tasks, without any bookkeeping."""
    groups = [[task] for task in range(len(affinity))]
    while len(groups) > num_groups:
        pairs = [
            (affinity[np.ix_(one, other)].mean() - SIZE_PENALTY * (len(one) + len(other)) / len(affinity), i, j)
            for i, one in enumerate(groups)
            for j, other in enumerate(groups[:i])
            if len(one) + len(other) <= max_group_size(len(affinity), num_groups)
        ]
        _, i, j = max(pairs)
        groups[j] += groups.pop(i)
    return {frozenset(group) for group in groups}


def check_numbers(groups: np.ndarray, num_tasks: int, num_groups: int) -> None:
    """Checks that groups are numbered from 0 in the order of their first tasks."""
    assert groups.dtype == np.int64
    assert groups.shape == (num_tasks,)
    numbers, first = np.unique(groups, return_index=True)
    assert numbers.tolist() == list(range(num_groups))
    assert (np.diff(first) > 0).all()


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(1, 60), st.sampled_from([0.0, 0.3, 0.95, 1.0]), st.sampled_from([0, 1, 3]))
def test_there_are_as_many_groups_as_asked_for_and_none_is_too_large(
    data: st.DataObject, num_tasks: int, unknown: float, levels: int
) -> None:
    num_groups = data.draw(st.integers(1, num_tasks))
    generator = np.random.default_rng(data.draw(st.integers(0, 1000)))
    affinity = draw_affinity(generator, num_tasks, unknown, levels)
    before = affinity.copy()
    groups = group_by_affinity(affinity, num_groups)
    check_numbers(groups, num_tasks, num_groups)
    assert np.bincount(groups).max() <= 2 * num_tasks / (num_groups + 1)
    np.testing.assert_array_equal(affinity, before)
    np.testing.assert_array_equal(groups, group_by_affinity(affinity, num_groups))


@pytest.mark.parametrize("num_groups", [1, 2, 5, 8, 12, 20, 29, 30])
def test_it_is_average_linkage_within_the_bound(num_groups: int) -> None:
    for seed in range(3):
        affinity = draw_affinity(np.random.default_rng(seed), 30).astype(np.float64)
        assert partition(group_by_affinity(affinity, num_groups)) == merge_slowly(affinity, num_groups)


def test_planted_groups_are_found() -> None:
    generator = np.random.default_rng(4)
    sizes = [17, 13, 10, 9, 7, 4]  # 60 tasks, so at most 17
    planted = generator.permutation(np.repeat(np.arange(6), sizes))
    affinity = plant_groups(planted, generator)
    assert partition(group_by_affinity(affinity, 6)) == partition(planted)
    unknown = np.tril(generator.random(affinity.shape) < 0.2, -1)
    affinity[unknown | unknown.T] = np.nan
    assert partition(group_by_affinity(affinity, 6)) == partition(planted)


def test_a_planted_group_that_is_too_large_is_divided() -> None:
    planted = np.repeat([0, 1, 2, 3], [25, 5, 5, 5])
    groups = group_by_affinity(plant_groups(planted, np.random.default_rng(5)), 4)
    assert np.bincount(groups).max() <= 16
    assert len(set(groups[:25].tolist())) == 2


@pytest.mark.parametrize("num_groups", [2, 7, 25])
def test_the_order_of_tasks_does_not_change_the_partition(num_groups: int) -> None:
    generator = np.random.default_rng(6)
    affinity = draw_affinity(generator, 50)
    order = generator.permutation(50)
    permuted = group_by_affinity(affinity[np.ix_(order, order)], num_groups)
    assert partition(permuted[order.argsort()]) == partition(group_by_affinity(affinity, num_groups))


@pytest.mark.parametrize("affinity", [np.full((64, 64), np.nan), np.full((64, 64), 0.3), np.zeros((64, 64))])
def test_where_no_pair_is_closer_than_another_groups_are_of_equal_size(affinity: np.ndarray) -> None:
    assert np.bincount(group_by_affinity(affinity, 8)).tolist() == [8] * 8


@pytest.mark.parametrize(("num_tasks", "num_groups"), [(100, 2), (100, 8), (100, 16), (400, 30)])
def test_classes_that_exclude_each_other_are_shared_out(num_tasks: int, num_groups: int) -> None:
    # the association of two classes is the root of the product of their odds, so that frequent ones are closer to all others
    frequency = np.random.default_rng(9).uniform(0.9, 1.1, num_tasks) / num_tasks
    odds = np.sqrt(frequency / (1 - frequency))
    sizes = np.bincount(group_by_affinity(np.outer(odds, odds), num_groups))
    assert 2 * sizes.min() >= num_tasks // num_groups


def test_what_is_unknown_counts_as_the_mean_and_the_diagonal_not_at_all() -> None:
    affinity = draw_affinity(np.random.default_rng(7), 40, unknown=0.5)
    off_diagonal = ~np.eye(40, dtype=bool)
    filled = np.where(np.isnan(affinity), affinity[off_diagonal][~np.isnan(affinity[off_diagonal])].mean(), affinity)
    np.fill_diagonal(affinity, np.nan)
    np.testing.assert_array_equal(group_by_affinity(affinity, 8), group_by_affinity(filled, 8))


def test_many_tasks_take_no_time_to_speak_of() -> None:
    affinity = draw_affinity(np.random.default_rng(8), 600, unknown=0.5)
    for num_groups in (20, 300):
        check_numbers(group_by_affinity(affinity, num_groups), 600, num_groups)


@pytest.mark.parametrize(("num_tasks", "num_groups"), SIZES)
def test_without_affinity_sizes_differ_by_at_most_one(num_tasks: int, num_groups: int) -> None:
    in_order, at_random = group_in_order(num_tasks, num_groups), group_at_random(num_tasks, num_groups, seed=0)
    for groups in (in_order, at_random):
        check_numbers(groups, num_tasks, num_groups)
        assert np.ptp(np.bincount(groups)) <= 1
    assert (np.diff(in_order) >= 0).all()
    np.testing.assert_array_equal(at_random, group_at_random(num_tasks, num_groups, seed=0))


def test_random_groups_depend_on_the_seed_and_pair_all_tasks_alike() -> None:
    drawn = np.array([group_at_random(12, 3, seed) for seed in range(600)])
    together = (drawn[:, :, None] == drawn[:, None]).mean(axis=0)[~np.eye(12, dtype=bool)]
    assert abs(together - 3 / 11).max() < 0.1  # of 11 others, 3 are in the group of a task


@pytest.mark.parametrize("num_groups", [-1, 0, 6])
@pytest.mark.parametrize(
    "group",
    [
        lambda count: group_by_affinity(np.eye(5), count),
        lambda count: group_at_random(5, count, seed=0),
        lambda count: group_in_order(5, count),
    ],
)
def test_every_group_needs_a_task(group: Callable[[int], np.ndarray], num_groups: int) -> None:
    with pytest.raises(
        InputError, match=rf"`num_groups` should be from 1 to the number of tasks, 5\. Got {num_groups}"
    ):
        group(num_groups)
