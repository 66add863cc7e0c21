"""A variant whose runs vary far more than the others' does not hide what is different between these."""

import numpy as np
import pytest

from matl_scale.report.sweep.macro import compare_pair
from matl_scale.report.sweep.set_aside import find_set_aside, fit_nested

NUM_SWEEPS = 300
MOST_BY_CHANCE = 0.05 + 3 * (0.05 * 0.95 / NUM_SWEEPS) ** 0.5


def draw(generator: np.random.Generator, means: list[float], noise: list[float], num_seeds: int = 3) -> np.ndarray:
    """Draws figures, `(num_variants, num_seeds)`, with these means and standard deviations, and luck that a seed's runs share."""
    luck = 0.01 * generator.normal(size=num_seeds)
    return np.array(means)[:, None] + luck + np.array(noise)[:, None] * generator.normal(size=(len(means), num_seeds))


def called_different(values: np.ndarray) -> tuple[bool, list[int]]:
    """Returns whether the first two variants are called different, and which variants are set aside."""
    aside = find_set_aside(values, 0.05)
    fits = fit_nested(values[:, :, None], aside)
    return compare_pair(*fits.of_pair(0, 1), 0.05).p <= 0.05, aside


def test_a_noisy_variant_hides_nothing_and_makes_nothing_up() -> None:
    generator = np.random.default_rng(0)
    noise = [0.001, 0.001, 0.2]
    equal = [called_different(draw(generator, [0.9, 0.9, 0.3], noise)) for _ in range(NUM_SWEEPS)]
    assert np.mean([found for found, _ in equal]) < MOST_BY_CHANCE
    different = [called_different(draw(generator, [0.9, 0.89, 0.3], noise)) for _ in range(NUM_SWEEPS)]
    told = [found for found, aside in different if aside == [2]]
    assert len(told) > NUM_SWEEPS / 3
    assert np.mean(told) > 0.8
    assert not any(found for found, aside in different if not aside), "by the noise of all"


@pytest.mark.parametrize("means", [[0.9, 0.9, 0.6], [0.9, 0.9, 0.9, 0.6, 0.5]])
def test_equal_noise_is_shared_by_all(means: list[float]) -> None:
    """Nobody is set aside for being worse alone, and the equal ones stay as equal as they were."""
    generator = np.random.default_rng(1)
    found = [called_different(draw(generator, means, [0.01] * len(means))) for _ in range(NUM_SWEEPS)]
    assert np.mean([bool(aside) for _, aside in found]) < 0.02
    assert np.mean([told for told, _ in found]) < MOST_BY_CHANCE


def test_who_is_set_aside_is_compared_by_the_noise_of_all() -> None:
    values = draw(np.random.default_rng(2), [0.9, 0.89, 0.3], [0.0005, 0.0005, 0.1])
    aside = find_set_aside(values, 0.05)
    fits, whole = fit_nested(values[:, :, None], aside), fit_nested(values[:, :, None], [])
    assert aside == [2]
    assert compare_pair(*fits.of_pair(0, 2), 0.05) == compare_pair(*whole.of_pair(0, 2), 0.05)
    two = fit_nested(values[:2, :, None], [])
    assert compare_pair(*fits.of_pair(0, 1), 0.05) == compare_pair(*two.of_pair(0, 1), 0.05)
    assert fits.times_as_much > 30


def test_nobody_is_set_aside_where_it_cannot_be_told() -> None:
    """Noise that figures in steps do not show, a single seed, two variants, the best one."""
    steps = np.array([[1.0, 1.0, 1.0], [0.99, 0.99, 0.99], [0.5, 0.7, 0.3]])
    assert find_set_aside(steps, 0.05) == []
    assert find_set_aside(steps[:, :1] + [[0.0], [0.001], [0.002]], 0.05) == []
    values = draw(np.random.default_rng(3), [0.5, 0.5, 0.9], [0.0005, 0.0005, 0.05])
    assert find_set_aside(values[1:], 0.05) == []
    assert find_set_aside(values, 0.05) == [], "the best varies most, and all are compared with it"


def test_who_was_worse_stays_worse() -> None:
    """Of two that are set aside, the calmer one is not judged by the noise of the other."""
    generator = np.random.default_rng(4)
    both = 0
    for _ in range(100):
        values = draw(generator, [0.9, 0.89, 0.8, 0.3], [0.0005, 0.0005, 0.02, 0.25])
        aside = find_set_aside(values, 0.05)
        if len(aside) == 2:
            both += 1
            assert aside == [3, 2]
            fits = fit_nested(values[:, :, None], aside)
            without = fit_nested(values[:3, :, None], [])
            assert compare_pair(*fits.of_pair(0, 2), 0.05) == compare_pair(*without.of_pair(0, 2), 0.05)
            assert compare_pair(*fits.of_pair(0, 2), 0.05).p <= 0.05
            assert compare_pair(*fits.of_pair(0, 3), 0.05).p <= 0.05
    assert both > 10
