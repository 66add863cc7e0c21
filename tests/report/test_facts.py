"""What every report of one run starts from: which predictions belong to its last evaluation, and the margins of error."""

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from helpers.made_up_runs import MadeUp, write_run
from matl_scale.report.facts import collect_facts, measure_half_widths
from matl_scale.report.mask_association import rank
from matl_scale.runs.history import RunHistory
from matl_scale.runs.records import LocalLog


def half_width(labels: np.ndarray, predicted: np.ndarray) -> float:
    return float(measure_half_widths(labels[:, None], predicted[:, None], [2])[0])


def test_intervals_of_tasks_together_are_those_of_each_alone() -> None:
    generator, num_classes = np.random.default_rng(0), [2, 4, 3, 2, 2]
    labels = np.stack([generator.integers(-1, count, 80) for count in num_classes], axis=1)
    predicted = np.where(generator.random(labels.shape) < 0.7, labels, 0)
    labels[:, 3], labels[:, 4] = -1, np.minimum(labels[:, 4], 0)
    expected = []
    for own, given in zip(labels.T, predicted.T, strict=True):
        recalls = [(((own == c) & (given == c)).sum() + 1) / ((own == c).sum() + 2) for c in set(own.tolist()) - {-1}]
        sizes = [(own == c).sum() + 2 for c in set(own.tolist()) - {-1}]
        variance = sum(recall * (1 - recall) / size for recall, size in zip(recalls, sizes, strict=True))
        expected.append(1.96 * np.sqrt(variance) / len(recalls) if len(recalls) > 1 else np.nan)
    np.testing.assert_allclose(measure_half_widths(labels, predicted, num_classes), expected, rtol=1e-12)
    assert np.isfinite(expected).sum() == 3


def test_ranks_are_those_of_scipy() -> None:
    values = np.random.default_rng(0).integers(0, 20, 100) / 7
    np.testing.assert_array_equal(rank(values), stats.rankdata(values))


def test_predictions_of_another_evaluation_are_not_used(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", MadeUp(num_tasks=6, num_samples=60, num_evaluations=3))
    latest = run.latest("test")
    LocalLog(run.folder).log_per_task(2000, "test", latest.tasks, latest.metrics)
    facts = collect_facts(RunHistory(run.folder), "test")
    assert facts.predictions is None
    assert facts.no_predictions == "The stored predictions are of step 1,500, not of step 2,000."


@pytest.mark.parametrize(("support", "recall"), [((400, 40), (0.9, 0.7)), ((30, 200), (0.99, 0.5))])
def test_interval_covers_what_other_samples_would_give(support: tuple[int, int], recall: tuple[float, float]) -> None:
    generator, covered = np.random.default_rng(0), 0
    labels = np.repeat([0, 1], support)
    for _ in range(400):
        predicted = np.where(generator.random(len(labels)) < np.array(recall)[labels], labels, 1 - labels)
        measured = np.mean([(predicted[labels == c] == c).mean() for c in (0, 1)])
        covered += abs(measured - np.mean(recall)) <= half_width(labels, predicted)
    assert 0.92 <= covered / 400 <= 0.985


def test_interval_of_a_perfect_task_is_not_zero() -> None:
    labels = np.array([0, 0, 1, 1, -1])
    assert half_width(labels, labels) > 0.1
    assert np.isnan(half_width(np.array([1, 1]), np.array([1, 0])))
