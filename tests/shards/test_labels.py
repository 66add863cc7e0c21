"""Labels in every kind of store against the matrix that they came from."""

import pickle
from collections.abc import Callable

import numpy as np
import pytest

from helpers.label_stores import draw_matrix, stored
from matl_scale.data.shards.labels import Labels
from matl_scale.data.shards.sparse_labels import SparseColumns

SELECTIONS: dict[str, Callable[[int], np.ndarray]] = {
    "all": np.arange,
    "span": lambda size: np.arange(size // 5, size - size // 7),
    "pieces": lambda size: np.delete(np.arange(size), [0, size // 3, size // 2, size // 2 + 1]),
    "fold": lambda size: np.flatnonzero(np.random.default_rng(0).random(size) < 0.8),
    "every third": lambda size: np.arange(size - 400, size - 200, 3),
    "one": lambda size: np.array([size // 2]),
    "none": lambda _: np.zeros(0, dtype=np.int64),
}
HIDDEN = [1, 6]


@pytest.fixture(scope="module", params=[5_000, 66_001], ids=["small", "blocks"])
def matrix(request: pytest.FixtureRequest) -> np.ndarray:
    return draw_matrix(request.param)[0]


@pytest.fixture(scope="module")
def whole(matrix: np.ndarray) -> Labels:
    return stored(matrix)


@pytest.fixture(params=list(SELECTIONS))
def pair(request: pytest.FixtureRequest, matrix: np.ndarray, whole: Labels) -> tuple[Labels, np.ndarray]:
    """Some samples' labels, and their matrix; two tasks are as if they had none."""
    ids = SELECTIONS[request.param](len(matrix))
    expected = matrix[ids]
    expected[:, HIDDEN] = -1
    return whole.without(HIDDEN).of_samples(ids), expected


def test_tasks_with_few_labels_are_sparse(whole: Labels, matrix: np.ndarray) -> None:
    for store, column in zip(whole.store_of, matrix.T, strict=True):
        share = (column >= 0).mean()
        if not 0.1 < share < 0.9:
            assert isinstance(whole.stores[store], SparseColumns) == (share < 0.1)
    assert len(whole.stores) == 5  # all kinds
    assert whole.nbytes < 0.75 * (matrix.shape[0] * 12 + 24 * matrix.shape[0])


def test_labels_of_samples(pair: tuple[Labels, np.ndarray]) -> None:
    labels, matrix = pair
    generator = np.random.default_rng(0)
    assert (labels.num_samples, labels.num_tasks) == matrix.shape
    np.testing.assert_array_equal(labels.at(np.arange(len(matrix))), matrix)
    tasks = generator.permutation(matrix.shape[1])[:9]
    for indices in (generator.integers(0, len(matrix), 300) if len(matrix) else np.zeros(0, dtype=int), np.arange(0)):
        np.testing.assert_array_equal(labels.at(indices, tasks), matrix[indices][:, tasks])
    near = np.arange(len(matrix) // 3, min(len(matrix), len(matrix) // 3 + 900), 2)
    np.testing.assert_array_equal(labels.at(near, tasks), matrix[near][:, tasks])
    assert labels.at(near, tasks).dtype == matrix.dtype


def test_labels_of_a_task(pair: tuple[Labels, np.ndarray]) -> None:
    labels, matrix = pair
    for task, column in enumerate(matrix.T):
        np.testing.assert_array_equal(labels.column(task), column)
        for block in (slice(0, 2048), slice(2048, 4096), slice(len(column) - 10, len(column) + 10)):
            np.testing.assert_array_equal(labels.column(task, block), column[block])
        indices, classes = labels.entries(task)
        np.testing.assert_array_equal(indices, np.flatnonzero(column >= 0))
        np.testing.assert_array_equal(classes, column[column >= 0])


def test_counts(pair: tuple[Labels, np.ndarray]) -> None:
    labels, matrix = pair
    np.testing.assert_array_equal(labels.count(), (matrix >= 0).sum(axis=0))
    for task, column in enumerate(matrix.T):
        counts = np.bincount(column[column >= 0], minlength=2)
        np.testing.assert_array_equal(labels.count_classes(task, 2), counts)
    for tasks in ([2], [0, 2], [2, 6, 10], list(range(matrix.shape[1])), []):
        expected = (matrix[:, tasks] >= 0).any(axis=1)
        np.testing.assert_array_equal(labels.has_label(tasks), expected)
        assert labels.count_samples(tasks) == expected.sum()
    per_sample = (matrix >= 0).sum(axis=1)
    assert labels.mean_per_sample() == per_sample.sum() / max((per_sample > 0).sum(), 1)


def test_the_nth_labelled_sample(pair: tuple[Labels, np.ndarray]) -> None:
    labels, matrix = pair
    generator = np.random.default_rng(0)
    for task, column in enumerate(matrix.T):
        found = np.flatnonzero(column >= 0)
        if len(found):
            numbers = np.append(generator.integers(0, len(found), 40), [0, len(found) - 1])
            np.testing.assert_array_equal(labels.find(task, numbers), found[numbers])


def test_views_of_views(whole: Labels, matrix: np.ndarray) -> None:
    ids, tasks = np.arange(100, 4000), [9, 2, 4]
    view = whole.of_samples(ids).of_tasks(tasks).of_samples(np.arange(5, 3000, 2)).without([1])
    expected = matrix[ids][:, tasks][5:3000:2]
    expected[:, 1] = -1
    np.testing.assert_array_equal(view.at(np.arange(len(expected))), expected)


def test_a_matrix_is_not_copied() -> None:
    matrix = draw_matrix(3000)[0]
    labels = Labels.of_matrix(matrix)
    assert np.shares_memory(labels.column(0), matrix)
    np.testing.assert_array_equal(labels.at(np.arange(3000)), matrix)
    np.testing.assert_array_equal(labels.count(), (matrix >= 0).sum(axis=0))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(labels)).at(np.arange(3000)), matrix)
