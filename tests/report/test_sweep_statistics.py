"""The statistics of a sweep: what is called a difference over seeds, and how often by chance."""

import numpy as np
import pytest
from scipy import stats

from matl_scale.report.significance.paired_counts import adjust_p
from matl_scale.report.sweep.macro import compare_pair, margin, mean_interval, seeds_needed
from matl_scale.report.sweep.moderated import effective_tasks, fit_prior, inverse_trigamma, moderate
from matl_scale.report.sweep.two_way import fit_two_way

NUM_SWEEPS = 300
MOST_BY_CHANCE = 0.05 + 3 * (0.05 * 0.95 / NUM_SWEEPS) ** 0.5  # of that many sweeps, if one in twenty is expected


def draw_noise(
    generator: np.random.Generator, num_variants: int, num_seeds: int, num_tasks: int, together: float
) -> np.ndarray:
    """Draws figures of equal variants, `(num_variants, num_seeds, num_tasks)`: luck of the seed, and noise, unequal over tasks,
    of which a share is common to all tasks of a run."""
    shape = (num_variants, num_seeds, num_tasks)
    scale = 0.02 * np.sqrt(4 / generator.chisquare(4, num_tasks))
    common = generator.normal(size=(*shape[:2], 1))
    noise = np.sqrt(together) * common + np.sqrt(1 - together) * generator.normal(size=shape)
    return 0.7 + 0.02 * generator.normal(size=(1, num_seeds, num_tasks)) + scale * noise


def test_two_variants_are_compared_as_pairs() -> None:
    values = np.random.default_rng(0).normal(size=(2, 4, 3))
    fit = fit_two_way(values)
    expected = stats.ttest_rel(values[0], values[1])
    assert fit.freedom == 3
    np.testing.assert_allclose(fit.differences(0, 1), values[0].mean(axis=0) - values[1].mean(axis=0))
    t = fit.differences(0, 1) / np.sqrt(fit.variances * fit.scale(0, 1))
    np.testing.assert_allclose(t, expected.statistic)
    found = compare_pair(fit_two_way(values[:, :, :1]), 0, 1, 0.05)
    assert found.p == pytest.approx(expected.pvalue[0])
    interval = expected.confidence_interval(0.95)
    assert found.half_width == pytest.approx((interval.high[0] - interval.low[0]) / 2)


def test_several_variants_are_compared_by_analysis_of_variance() -> None:
    values = np.random.default_rng(1).normal(size=(4, 3, 1))
    fit = fit_two_way(values)
    rest = values - values.mean(axis=0) - values.mean(axis=1, keepdims=True) + values.mean()
    variance = (rest**2).sum() / 6
    assert fit.freedom == 6
    assert fit.variances[0] == pytest.approx(variance)
    assert fit.scale(0, 1) == pytest.approx(2 / 3)
    np.testing.assert_allclose(fit.means, values.mean(axis=1))
    found = compare_pair(fit, 0, 1, 0.05)
    q = abs(values[0].mean() - values[1].mean()) / np.sqrt(variance / 3)
    assert found.p == pytest.approx(stats.studentized_range.sf(q, 4, 6))
    assert found.half_width == margin(fit, 0, 1, 0.05)
    at_margin = stats.studentized_range.sf(found.half_width / np.sqrt(variance / 3), 4, 6)
    assert at_margin == pytest.approx(0.05)
    width = stats.t.ppf(0.975, 6) * np.sqrt(variance / 3)
    assert mean_interval(fit, 3, 0.95) == pytest.approx(width)


def test_missing_runs_leave_the_seeds_that_are_shared() -> None:
    values = np.random.default_rng(2).normal(size=(2, 4, 2))
    values[1, 3] = np.nan
    fit = fit_two_way(values)
    np.testing.assert_allclose(fit.differences(0, 1), (values[0] - values[1])[:3].mean(axis=0))
    assert fit.freedom == 2
    np.testing.assert_allclose(fit_two_way(values[:, :3]).differences(0, 1), fit.differences(0, 1))
    # of three variants, the third helps: its seed tells what the missing run would have shared
    third = fit_two_way(np.concatenate([values, np.random.default_rng(3).normal(size=(1, 4, 2))]))
    assert third.freedom == 5
    assert third.scale(0, 2) < third.scale(0, 1)


def test_a_seed_that_no_variant_has_changes_nothing() -> None:
    values = np.random.default_rng(15).normal(0.7, 0.01, size=(3, 3, 2))
    with_empty = np.concatenate([values, np.full((3, 1, 2), np.nan)], axis=1)
    with_empty = with_empty[:, [0, 3, 1, 2]]
    one, other = fit_two_way(values), fit_two_way(with_empty)
    assert one.freedom == other.freedom
    np.testing.assert_allclose(other.means, values.mean(axis=1))
    np.testing.assert_allclose(other.variances, one.variances)


def test_variants_without_a_common_seed_cannot_be_compared() -> None:
    values = np.random.default_rng(4).normal(size=(3, 4, 1))
    values[0, 2:], values[1, :2], values[2, 2:] = np.nan, np.nan, np.nan
    fit = fit_two_way(values)
    assert np.isnan(fit.differences(0, 1)).all()
    assert np.isnan(compare_pair(fit, 0, 1, 0.05).p)
    assert np.isfinite(compare_pair(fit, 0, 2, 0.05).p)
    np.testing.assert_allclose(fit.means[1], np.nanmean(values[1], axis=0))


def test_one_seed_tells_nothing() -> None:
    fit = fit_two_way(np.random.default_rng(5).normal(size=(3, 1, 5)))
    assert fit.freedom == 0
    assert np.isnan(moderate(fit).p_values(fit.differences(0, 1), fit.scale(0, 1))).all()
    assert np.isnan(compare_pair(fit, 0, 1, 0.05).p)


def test_copies_are_never_different() -> None:
    for num_tasks in (1, 6):
        one = np.random.default_rng(6).normal(0.7, 0.01, size=(1, 3, num_tasks))
        for values in (np.concatenate([one, one]), np.concatenate([one, one, one + 0.1, one * 1.01])):
            fit = fit_two_way(values)
            assert moderate(fit).p_values(fit.differences(0, 1), fit.scale(0, 1)).tolist() == [1.0] * num_tasks
        macro = compare_pair(fit_two_way(np.concatenate([one, one]).mean(axis=2, keepdims=True)), 0, 1, 0.05)
        assert (macro.value, macro.half_width, macro.p) == (0, 0, 1)


def test_copies_do_not_make_the_noise_seem_small() -> None:
    values = np.random.default_rng(7).normal(size=(2, 3, 1))
    alone, with_copies = fit_two_way(values), fit_two_way(values[[0, 0, 1, 0]])
    assert with_copies.freedom == alone.freedom
    np.testing.assert_allclose(with_copies.variances, alone.variances)
    assert compare_pair(with_copies, 3, 2, 0.05) == compare_pair(alone, 0, 1, 0.05)


def test_tasks_without_noise() -> None:
    """A task that every run gets right is no evidence of small noise, and a constant difference beside noisy tasks is judged by
    theirs."""
    values = draw_noise(np.random.default_rng(8), 2, 3, 40, together=0)
    values[:, :, 0], values[0, :, 1], values[1, :, 1] = 1.0, 0.9, 0.9001
    fit = fit_two_way(values)
    noise = moderate(fit)
    p = noise.p_values(fit.differences(1, 0), fit.scale(1, 0))
    assert p[0] == 1
    assert 0.3 < p[1] < 1
    assert np.isfinite(p).all()


def test_the_prior_is_found_again() -> None:
    generator = np.random.default_rng(9)
    true = 0.5 * 6 / generator.chisquare(6, 20_000)
    variance, freedom = fit_prior(true * generator.chisquare(4, 20_000) / 4, 4)
    assert variance == pytest.approx(0.5, rel=0.05)
    assert freedom == pytest.approx(6, rel=0.1)
    assert fit_prior(generator.chisquare(4, 20_000) / 4, 4)[1] > 100  # equal variances
    cautious = fit_prior(true[:50] * generator.chisquare(4, 50) / 4, 4, effective=50)[1]
    assert cautious < freedom


@pytest.mark.parametrize("value", [1e-3, 0.1, 1.0, 50.0, 1e4])
def test_inverse_trigamma(value: float) -> None:
    from scipy.special import polygamma

    assert polygamma(1, inverse_trigamma(value)) == pytest.approx(value)


def test_tasks_that_go_together_count_as_few() -> None:
    generator = np.random.default_rng(10)
    independent = generator.normal(size=(4, 500))
    assert effective_tasks(independent) > 100
    assert effective_tasks(np.repeat(generator.normal(size=(4, 1)), 500, axis=1)) == pytest.approx(1)
    assert effective_tasks(np.repeat(generator.normal(size=(20, 5)), 100, axis=1)) == pytest.approx(5, rel=0.5)


@pytest.mark.parametrize("num_variants", [2, 4])
def test_equal_variants_are_seldom_called_different(num_variants: int) -> None:
    generator = np.random.default_rng(11)
    called = 0
    for _ in range(NUM_SWEEPS):
        fit = fit_two_way(draw_noise(generator, num_variants, 3, 10, together=0.3).mean(axis=2, keepdims=True))
        highest, lowest = int(fit.means[:, 0].argmax()), int(fit.means[:, 0].argmin())
        called += fit.differences(highest, lowest)[0] > margin(fit, highest, lowest, 0.05)
    assert 0.01 < called / NUM_SWEEPS < MOST_BY_CHANCE


@pytest.mark.parametrize("together", [0.0, 0.6, 0.98])
@pytest.mark.parametrize("num_variants", [2, 3])
def test_equal_tasks_are_seldom_called_different(together: float, num_variants: int) -> None:
    """Also where the tasks of a run rise and fall together, which makes their noise look better known than it is."""
    generator = np.random.default_rng(12)
    called = 0
    for _ in range(NUM_SWEEPS):
        fit = fit_two_way(draw_noise(generator, num_variants, 3, 60, together))
        p = moderate(fit).p_values(fit.differences(1, 0), fit.scale(1, 0))
        called += bool((adjust_p(p) <= 0.05).any())
    assert called / NUM_SWEEPS < MOST_BY_CHANCE


@pytest.mark.parametrize(("num_samples", "hardest"), [(10, 0.6), (40, 0.95)])
def test_equal_tasks_of_few_samples_are_seldom_called_different(num_samples: int, hardest: float) -> None:
    """Accuracies that move in steps, of which many are 1: the same step in three seeds is chance too."""
    generator = np.random.default_rng(16)
    called = 0
    for _ in range(NUM_SWEEPS):
        skill = generator.uniform(hardest, 1, 300)
        fit = fit_two_way(generator.binomial(num_samples, np.broadcast_to(skill, (2, 3, 300))) / num_samples)
        p = moderate(fit).p_values(fit.differences(1, 0), fit.scale(1, 0))
        called += bool((adjust_p(p) <= 0.05).any())
    assert called / NUM_SWEEPS < MOST_BY_CHANCE


def test_differences_of_tasks_are_found() -> None:
    """A fifth of the tasks differ by four times the noise of a run; most are found, and few others."""
    generator = np.random.default_rng(13)
    real = np.arange(100) < 20
    found, false = [], []
    for _ in range(40):
        values = draw_noise(generator, 3, 3, 100, together=0.2)
        values[1] += 0.08 * real
        fit = fit_two_way(values)
        called = adjust_p(moderate(fit).p_values(fit.differences(1, 0), fit.scale(1, 0))) <= 0.05
        found.append(called[real].mean())
        false.append((called & ~real).sum() / max(1, called.sum()))
    assert np.mean(found) > 0.5
    assert np.mean(false) < 0.05


def test_the_number_of_seeds_that_is_named_shows_the_difference() -> None:
    generator = np.random.default_rng(14)
    seeds = seeds_needed(0.02, 0.015**2, 3, 0.05)
    assert seeds is not None
    shown = 0
    for _ in range(150):
        values = generator.normal(0, 0.015, (3, seeds, 1))
        values[0] += 0.02
        fit = fit_two_way(values)
        shown += fit.differences(0, 1)[0] > margin(fit, 0, 1, 0.05)
    assert 0.7 < shown / 150 < 0.95
    assert seeds_needed(0.0, 1.0, 3, 0.05) is None
    assert seeds_needed(1e-4, 0.015**2, 3, 0.05) is None
