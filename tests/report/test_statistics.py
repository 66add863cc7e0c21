"""Intervals and p values of the report against slow and obvious references, and their error rate on runs that are alike."""

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
from scipy import stats

from matl_scale.metrics.names import PAIRED_METRICS, PairedMetric
from matl_scale.report.significance.bootstrap import bootstrap_interval
from matl_scale.report.significance.paired_counts import adjust_p, count_pairs, metric_of_runs, seed_margin
from matl_scale.report.significance.randomisation import P_FLOOR, randomisation_p

Pairs = tuple[np.ndarray, np.ndarray, np.ndarray]


def draw(
    num_samples: int,
    shares: list[float],
    skills: tuple[float, float] = (0.8, 0.75),
    runs: tuple[int, int] = (1, 1),
    seed: int = 0,
) -> Pairs:
    """Returns labels, and which samples the runs of A and B predicted correctly; every class occurs."""
    generator = np.random.default_rng(seed)
    labels = generator.choice(len(shares), num_samples, p=shares)
    labels[: len(shares)] = np.arange(len(shares))
    correct_a, correct_b = (
        generator.random((count, num_samples)) < skill for count, skill in zip(runs, skills, strict=True)
    )
    return labels, correct_a, correct_b


def difference_of(labels: np.ndarray, metric: PairedMetric) -> Callable[[np.ndarray], np.ndarray]:
    """Returns the statistic, obviously: from differences per sample, shape `(..., num_samples)`."""
    if metric == "accuracy":
        return lambda differences: differences.mean(axis=-1)
    return lambda differences: np.mean([differences[..., labels == c].mean(axis=-1) for c in np.unique(labels)], axis=0)


def per_sample(correct_a: np.ndarray, correct_b: np.ndarray) -> np.ndarray:
    return correct_b.mean(axis=0) - correct_a.mean(axis=0)


@pytest.mark.parametrize("metric", PAIRED_METRICS)
@pytest.mark.parametrize("runs", [(1, 1), (3, 3), (2, 3)])
def test_the_difference_is_that_of_the_metric(metric: PairedMetric, runs: tuple[int, int]) -> None:
    labels, correct_a, correct_b = draw(200, [0.6, 0.3, 0.1], runs=runs)
    found = count_pairs(labels, correct_a, correct_b, metric)
    means = [metric_of_runs(labels, correct, metric).mean() for correct in (correct_a, correct_b)]
    assert found.difference == pytest.approx(means[1] - means[0], abs=1e-12)
    assert found.difference == pytest.approx(difference_of(labels, metric)(per_sample(correct_a, correct_b)), abs=1e-12)
    assert found.counts.sum() == 200


def extremeness(labels: np.ndarray, metric: PairedMetric) -> Callable[[np.ndarray], np.ndarray]:
    """Returns the test's statistic, obviously: the difference over its standard error within strata, without a sign."""
    strata = labels if metric == "balanced_accuracy" else np.zeros_like(labels)
    statistic = difference_of(labels, metric)

    def measure(differences: np.ndarray) -> np.ndarray:
        members = [differences[..., strata == c] for c in np.unique(strata)]
        variance = sum(part.var(axis=-1) / part.shape[-1] for part in members)
        return np.abs(statistic(differences)) / np.sqrt(np.maximum(variance, 1e-18))

    return measure


@pytest.mark.parametrize("metric", PAIRED_METRICS)
@pytest.mark.parametrize("seed", range(12))
def test_p_is_the_share_of_all_ways_to_swap(metric: PairedMetric, seed: int) -> None:
    shares, runs = ([0.7, 0.3] if seed % 2 else [0.5, 0.3, 0.2]), ((1, 1) if seed % 4 < 2 else (2, 3))
    labels, correct_a, correct_b = draw(11, shares, (0.8, 0.45), runs, seed)
    differences, measure = per_sample(correct_a, correct_b), extremeness(labels, metric)
    signs = np.array(list(product((1, -1), repeat=11)))
    expected = (measure(signs * differences) >= measure(differences) * (1 - 1e-9)).mean()
    # with three classes p is drawn, at least 2,000 times
    tolerance = (
        4 * (expected * (1 - expected) / 2000) ** 0.5 + 1e-3 if len(shares) > 2 and metric != "accuracy" else 1e-9
    )
    assert randomisation_p(count_pairs(labels, correct_a, correct_b, metric)) == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize("seed", range(4))
def test_p_of_two_accuracies_is_mcnemars(seed: int) -> None:
    labels, correct_a, correct_b = draw(3000, [0.5, 0.5], (0.8, 0.78), seed=seed)
    only_b, only_a = int((correct_b & ~correct_a).sum()), int((correct_a & ~correct_b).sum())
    expected = stats.binomtest(only_b, only_a + only_b).pvalue
    assert randomisation_p(count_pairs(labels, correct_a, correct_b, "accuracy")) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("num_classes", "skill"), [(2, 0.778), (20, 0.785)])
def test_p_agrees_with_swaps_drawn_sample_by_sample(num_classes: int, skill: float) -> None:
    shares = (np.arange(1, num_classes + 1) / np.arange(1, num_classes + 1).sum()).tolist()
    labels, correct_a, correct_b = draw(2000, shares, (0.8, skill), seed=2)
    differences, measure = per_sample(correct_a, correct_b), extremeness(labels, "balanced_accuracy")
    generator, extreme = np.random.default_rng(1), 0
    for _ in range(10):
        signs = generator.choice([-1.0, 1.0], (1000, 2000))
        extreme += int((measure(signs * differences) >= measure(differences)).sum())
    share = extreme / 10_000
    assert 0.001 < share < 0.5
    found = randomisation_p(count_pairs(labels, correct_a, correct_b, "balanced_accuracy"))
    assert found == pytest.approx(share, abs=5 * (share / 2000) ** 0.5)


def test_another_threshold_does_not_hide_a_difference() -> None:
    """B predicts positives much more often: it wins 45 of 81 and loses 55 of 189. Swapping alone would find p = 0.004."""
    labels = np.repeat([0, 1], [189, 81])
    correct_a, correct_b = labels == 0, labels == 0
    correct_b[:55], correct_b[189:234] = False, True
    pairs = count_pairs(labels, correct_a[None], correct_b[None], "balanced_accuracy")
    assert bootstrap_interval(pairs)[0] > 0.06
    assert randomisation_p(pairs) < 2e-4


@pytest.mark.parametrize("runs", [(1, 1), (2, 3)])
@pytest.mark.parametrize("shares", [[0.55, 0.45], [0.6, 0.37, 0.03]])
def test_the_interval_is_that_of_resampling_within_classes(shares: list[float], runs: tuple[int, int]) -> None:
    labels, correct_a, correct_b = draw(300, shares, runs=runs, seed=3)
    differences, generator, total = per_sample(correct_a, correct_b), np.random.default_rng(0), np.zeros(40_000)
    for label in range(len(shares)):
        members = differences[labels == label]
        total += generator.choice(members, (40_000, len(members))).mean(axis=1) / len(shares)
    found = bootstrap_interval(count_pairs(labels, correct_a, correct_b, "balanced_accuracy"))
    # the standard error of these quantiles is 0.013 standard deviations
    np.testing.assert_allclose(found, np.quantile(total, [0.025, 0.975]), atol=0.06 * total.std())


def test_the_interval_of_accuracy_is_scipys_paired_bootstrap() -> None:
    labels, correct_a, correct_b = draw(250, [0.9, 0.1], seed=5)
    expected = stats.bootstrap(
        (correct_a[0].astype(float), correct_b[0].astype(float)),
        lambda a, b, axis: (b - a).mean(axis=axis),
        paired=True, n_resamples=20_000, method="percentile", vectorized=True, rng=np.random.default_rng(0),
    )  # fmt: skip
    found = bootstrap_interval(count_pairs(labels, correct_a, correct_b, "accuracy"))
    np.testing.assert_allclose(found, expected.confidence_interval, atol=1 / 250 + 0.08 * expected.standard_error)


@pytest.mark.parametrize("metric", PAIRED_METRICS)
def test_sides_are_exchanged(metric: PairedMetric) -> None:
    labels, correct_a, correct_b = draw(400, [0.7, 0.2, 0.1], runs=(2, 1))
    forth, back = count_pairs(labels, correct_a, correct_b, metric), count_pairs(labels, correct_b, correct_a, metric)
    assert forth.difference == pytest.approx(-back.difference)
    assert randomisation_p(forth) == pytest.approx(randomisation_p(back), rel=1e-9)
    spread = np.ptp(bootstrap_interval(forth))
    np.testing.assert_allclose(bootstrap_interval(forth), -np.array(bootstrap_interval(back))[::-1], atol=0.02 * spread)


@pytest.mark.parametrize("metric", PAIRED_METRICS)
def test_equal_predictions_differ_by_nothing(metric: PairedMetric) -> None:
    labels, correct, _ = draw(50, [0.5, 0.3, 0.2])
    pairs = count_pairs(labels, correct, correct, metric)
    assert pairs.difference == 0
    assert randomisation_p(pairs) == 1
    assert bootstrap_interval(pairs) == pytest.approx((0, 0), abs=1e-9)


@pytest.mark.parametrize("metric", PAIRED_METRICS)
def test_one_side_is_always_right_and_the_other_always_wrong(metric: PairedMetric) -> None:
    labels, correct, _ = draw(5000, [0.7, 0.3])
    pairs = count_pairs(labels, np.zeros_like(correct), np.ones_like(correct), metric)
    assert pairs.difference == pytest.approx(1)
    assert bootstrap_interval(pairs) == pytest.approx((1, 1))
    assert randomisation_p(pairs) == P_FLOOR


def test_padding_adds_a_sample_for_each_side_to_each_class() -> None:
    labels, correct_a, correct_b = draw(100, [0.6, 0.4], runs=(2, 3))
    pairs = count_pairs(labels, correct_a, correct_b, "balanced_accuracy")
    more = [
        np.concatenate([correct, np.full((len(correct), 4), [wins, wins, not wins, not wins])], axis=1)
        for correct, wins in ((correct_a, True), (correct_b, False))
    ]
    expected = count_pairs(np.append(labels, [0, 1, 0, 1]), *more, "balanced_accuracy")
    np.testing.assert_array_equal(pairs.padded().counts, expected.counts)


def test_correction_keeps_the_order_and_what_is_undefined() -> None:
    p = np.array([0.04, np.nan, 0.001, 0.2, 0.03])
    found = adjust_p(p)
    assert np.isnan(found[1])
    np.testing.assert_allclose(found[[0, 2, 3, 4]], [0.04 * 4 / 3, 0.004, 0.2, 0.04 * 4 / 3])
    shuffled = np.random.default_rng(0).random(300)
    order = np.argsort(shuffled)
    assert (np.diff(adjust_p(shuffled)[order]) >= 0).all()
    assert (adjust_p(shuffled) >= shuffled).all()
    assert np.isnan(adjust_p(np.full(3, np.nan))).all()


def test_the_margin_of_seeds_is_students() -> None:
    generator = np.random.default_rng(0)
    values_a, values_b = generator.normal(size=(3, 5)), generator.normal(size=(4, 5))
    interval = stats.ttest_ind(values_b, values_a).confidence_interval(0.95)
    np.testing.assert_allclose(seed_margin(values_a, values_b), (interval.high - interval.low) / 2)
    assert np.isnan(seed_margin(values_a[:1], values_b[:1])).all()
    assert np.isfinite(seed_margin(values_a, values_b[:1])).all()


def findings_of_a_null_pair(num_tasks: int, num_samples: int, seed: int, runs: tuple[int, int] = (1, 1)) -> int:
    """Counts the significant tasks between two sides that are equally good at every sample.

    Samples differ in how hard they are, for all tasks alike, so that tasks depend on each other; classes get as rare as 1 %.
    """
    generator = np.random.default_rng(seed)
    hardness = generator.normal(1, 1, num_samples)
    p = np.ones(num_tasks)
    for task in range(num_tasks):
        num_classes = int(generator.integers(2, 5))
        shares = generator.dirichlet(np.full(num_classes, 0.5)) * (1 - 0.01 * num_classes) + 0.01
        labels = generator.choice(num_classes, num_samples, p=shares / shares.sum())
        chance = 1 / (1 + np.exp(-hardness - generator.normal(0, 1, num_classes)[labels]))
        sides = [generator.random((count, num_samples)) < chance for count in runs]
        if len(np.unique(labels)) > 1:
            p[task] = randomisation_p(count_pairs(labels, *sides, "balanced_accuracy").padded())
    return int((adjust_p(p) <= 0.05).sum())


@pytest.mark.parametrize(("num_pairs", "runs"), [(40, (1, 1)), (10, (2, 3))])
def test_equally_good_sides_have_findings_no_more_often_than_stated(num_pairs: int, runs: tuple[int, int]) -> None:
    with_findings = sum(findings_of_a_null_pair(60, 300, seed, runs) > 0 for seed in range(num_pairs))
    assert with_findings <= stats.binom.ppf(0.9999, num_pairs, 0.05)


def findings_of_other_thresholds(num_tasks: int, num_positive: int, seed: int) -> int:
    """Counts the significant tasks between two sides of equal balanced accuracy, of which B predicts positives more often."""
    generator, labels = np.random.default_rng(seed), np.repeat([0, 1], [300, num_positive])
    p = np.ones(num_tasks)
    for task in range(num_tasks):
        sides = [generator.random((1, len(labels))) < np.array(recalls)[labels] for recalls in ((0.9, 0.3), (0.7, 0.5))]
        p[task] = randomisation_p(count_pairs(labels, *sides, "balanced_accuracy").padded())
    return int((adjust_p(p) <= 0.05).sum())


@pytest.mark.parametrize("num_positive", [3, 9, 20, 60])
def test_other_thresholds_are_no_findings_however_rare_a_class(num_positive: int) -> None:
    with_findings = sum(findings_of_other_thresholds(50, num_positive, seed) > 0 for seed in range(15))
    assert with_findings <= stats.binom.ppf(0.9999, 15, 0.05)


def test_real_differences_are_found() -> None:
    found = []
    for seed in range(20):
        labels, correct_a, correct_b = draw(1000, [0.8, 0.2], (0.75, 0.88), seed=seed)
        found.append(randomisation_p(count_pairs(labels, correct_a, correct_b, "balanced_accuracy").padded()))
    assert (adjust_p(np.array(found)) <= 0.05).mean() >= 0.9


@pytest.mark.slow
@pytest.mark.parametrize("runs", [(1, 1), (3, 3)])
def test_a_hundred_pairs_of_equally_good_sides(runs: tuple[int, int]) -> None:
    with_findings = sum(findings_of_a_null_pair(200, 1000, 1000 + seed, runs) > 0 for seed in range(100))
    print(f"{with_findings} of 100 pairs of 200 tasks have a finding at alpha 0.05")
    assert with_findings <= stats.binom.ppf(0.999, 100, 0.05)


@pytest.mark.slow
@pytest.mark.parametrize("num_rare", [3, 10, 80])
def test_intervals_cover_the_truth(num_rare: int) -> None:
    covered, skills, labels = [], (0.8, 0.85), np.repeat([0, 1], [320, num_rare])
    for seed in range(3000):
        generator = np.random.default_rng(seed)
        sides = [generator.random((1, len(labels))) < skill for skill in skills]
        low, high = bootstrap_interval(count_pairs(labels, *sides, "balanced_accuracy").padded())
        covered.append(low <= skills[1] - skills[0] <= high)
    print(f"95 % intervals cover the truth in {np.mean(covered):.1%} of 3000 draws with {num_rare} positives")
    assert np.mean(covered) > 0.94
