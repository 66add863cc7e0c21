"""Bias-corrected Cramér's V of all pairs of tasks, against the formula written out for one pair."""

from collections.abc import Sequence

import numpy as np
import pytest

from matl_scale.data.shards import contingency
from matl_scale.data.shards.contingency import spread_evenly
from matl_scale.data.shards.label_association import MIN_COMMON, cramers_v, strongest_pairs
from matl_scale.data.shards.labels import Labels
from matl_scale.tasks import Task

# What makes `measure_pairs` count all blocks in one way.
WAYS = {"dense": {"SPARSE_COST": 1e9}, "sparse": {"SPARSE_COST": 0}, "one by one": {"MAX_CELLS": 0}}


def build_tasks(num_classes: Sequence[int]) -> list[Task]:
    return [Task(name=f"t{i}", classes=tuple(map(str, range(count)))) for i, count in enumerate(num_classes)]


def draw_labels(
    generator: np.random.Generator, num_samples: int, num_classes: Sequence[int], missing: Sequence[float]
) -> np.ndarray:
    """Draws labels that all depend on one hidden number, less or more, with a share of them missing."""
    hidden, dtype = generator.random(num_samples), np.int8 if max(num_classes) <= 128 else np.int16
    labels = np.empty((num_samples, len(num_classes)), dtype=dtype, order="F")
    for task, (count, share) in enumerate(zip(num_classes, missing, strict=True)):
        noisy = np.where(generator.random(num_samples) < task / len(num_classes), hidden, generator.random(num_samples))
        labels[:, task] = np.where(generator.random(num_samples) < share, -1, (noisy**2 * count).astype(int))
    return labels


def reference(first: np.ndarray, second: np.ndarray, corrected: bool = True) -> float:
    """Cramér's V of two tasks."""
    both = (first >= 0) & (second >= 0)
    counts = np.zeros((first.max() + 2, second.max() + 2))
    np.add.at(counts, (first[both], second[both]), 1)
    counts = counts[counts.any(axis=1)][:, counts.any(axis=0)]
    n, (rows, columns) = both.sum(), counts.shape
    if n < MIN_COMMON or rows < 2 or columns < 2:
        return float("nan")
    expected = counts.sum(axis=1, keepdims=True) * counts.sum(axis=0, keepdims=True) / n
    phi_squared = ((counts - expected) ** 2 / expected).sum() / n
    if not corrected:
        return float(np.sqrt(phi_squared / min(rows - 1, columns - 1)))
    corrected_phi_squared = max(0, phi_squared - (rows - 1) * (columns - 1) / (n - 1))
    corrected_rows, corrected_columns = (k - (k - 1) ** 2 / (n - 1) for k in (rows, columns))
    return float(np.sqrt(corrected_phi_squared / min(corrected_rows - 1, corrected_columns - 1)))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("order", ["C", "F"])
def test_all_pairs_agree_with_the_formula(way: str, order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**WAYS[way], "BLOCK_COLUMNS": 12, "CHUNK_SAMPLES": 100}.items():
        monkeypatch.setattr(contingency, name, value)
    num_classes = [2, 5, 2, 3, 2, 130, 2, 9, 2, 2, 4, 2]
    missing = [0, 0, 0.5, 0, 0, 0.2, 0.97, 0.7, 0.9, 1, 0, 0]
    labels = draw_labels(np.random.default_rng(0), 450, num_classes, missing)
    values = cramers_v(Labels.of_matrix(labels.copy(order=order)), build_tasks(num_classes))
    expected = np.array([[reference(first, second) for second in labels.T] for first in labels.T])
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, values.T)
    np.testing.assert_allclose(
        values**2, expected**2, atol=2e-6
    )  # a root makes much of the rounding of what is about 0
    known = np.isfinite(values)
    assert known.any(axis=1).tolist() == [share < 0.96 for share in missing]
    np.testing.assert_allclose(values.diagonal()[known.diagonal()], 1, atol=1e-6)
    assert np.nanmax(np.tril(values, -1)) > 0.5


def test_for_binary_tasks_it_is_the_correlation_without_its_bias() -> None:
    generator = np.random.default_rng(0)
    first = generator.integers(0, 2, 500)
    noisy = np.where(generator.random(500) < 0.8, first, 1 - first)
    labels = np.stack([first, noisy, 1 - first], axis=1)
    labels[generator.random(labels.shape) < 0.2] = -1
    values = cramers_v(Labels.of_matrix(labels), build_tasks([2, 2, 2]))
    both = (labels[:, :2] >= 0).all(axis=1)
    square, bias = np.corrcoef(labels[both, 0], labels[both, 1])[0, 1] ** 2, 1 / (both.sum() - 1)
    assert values[0, 1] == pytest.approx(np.sqrt((square - bias) / (1 - bias)))
    assert values[0, 2] == pytest.approx(1)


def test_independent_tasks_with_few_samples_come_out_near_zero() -> None:
    num_classes = [10] * 12
    labels = np.random.default_rng(1).integers(0, 10, (60, 12)).astype(np.int8)
    pairs = np.tril_indices(12, -1)
    uncorrected = [reference(labels[:, i], labels[:, j], corrected=False) for i, j in zip(*pairs, strict=True)]
    assert np.mean(uncorrected) > 0.35
    assert cramers_v(Labels.of_matrix(labels), build_tasks(num_classes))[pairs].mean() < 0.08


@pytest.mark.parametrize("way", WAYS)
def test_what_is_unknown_is_nan(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in WAYS[way].items():
        monkeypatch.setattr(contingency, name, value)
    labels = np.full((2 * MIN_COMMON, 7), -1)
    labels[:MIN_COMMON, 0] = np.arange(MIN_COMMON) % 2
    labels[:MIN_COMMON, 1] = np.arange(MIN_COMMON) // 2 % 2
    labels[1 : MIN_COMMON + 1, 2] = np.arange(MIN_COMMON) % 2  # one sample less in common with the first two
    labels[:, 3] = 1  # always the same class
    labels[:MIN_COMMON, 4], labels[MIN_COMMON:, 4] = 0, 1  # two classes, one where the first two have labels
    labels[:MIN_COMMON, 5] = np.arange(MIN_COMMON)  # as many classes as samples
    known = np.isfinite(cramers_v(Labels.of_matrix(labels), build_tasks([2, 2, 2, 2, 2, MIN_COMMON, 2])))
    expected = np.zeros((7, 7), dtype=bool)
    expected[:2, :2] = expected[2, 2] = expected[4, 4] = expected[2, 4] = expected[4, 2] = True
    expected[2, 4] = expected[4, 2] = True  # sample MIN_COMMON has class 1
    np.testing.assert_array_equal(known, expected)
    assert np.isnan(cramers_v(Labels.of_matrix(labels[:0]), build_tasks([2] * 7))).all()


@pytest.mark.parametrize("present", [1, 0.5, 0.1])
def test_dense_and_sparse_products_agree_on_many_tasks(present: float, monkeypatch: pytest.MonkeyPatch) -> None:
    num_classes = [2] * 150 + [2 + i % 20 for i in range(50)]
    labels = draw_labels(np.random.default_rng(2), 5000, num_classes, [1 - present] * len(num_classes))
    values = {}
    for way in ("dense", "sparse"):
        monkeypatch.setattr(contingency, "SPARSE_COST", WAYS[way]["SPARSE_COST"])
        values[way] = cramers_v(Labels.of_matrix(labels), build_tasks(num_classes))
    assert np.isfinite(values["dense"]).mean() > 0.99
    np.testing.assert_allclose(values["dense"] ** 2, values["sparse"] ** 2, atol=2e-6)


def test_of_many_samples_evenly_spaced_ones_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = draw_labels(np.random.default_rng(3), 1000, [2] * 6, [0.1] * 6)
    monkeypatch.setattr(contingency, "MAX_OPERATIONS", 1)
    monkeypatch.setattr(contingency, "MIN_SAMPLES", 300)
    taken = spread_evenly(1000, 300)
    assert isinstance(taken, np.ndarray)
    assert set(np.diff(taken)) == {3, 4}
    values = cramers_v(Labels.of_matrix(labels), build_tasks([2] * 6))
    monkeypatch.undo()
    np.testing.assert_array_equal(values, cramers_v(Labels.of_matrix(labels[taken]), build_tasks([2] * 6)))


def test_the_strongest_pairs_come_first_and_unknown_ones_not_at_all() -> None:
    values = np.array([[1, 0.2, np.nan], [0.2, 1, 0.7], [np.nan, 0.7, 1]], dtype=np.float32)
    pairs = strongest_pairs(values, ["a", "b", "c"], 10)
    assert [(one, other, round(value, 6)) for one, other, value in pairs] == [("c", "b", 0.7), ("b", "a", 0.2)]
