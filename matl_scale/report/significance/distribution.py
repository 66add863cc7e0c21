"""Exact distributions of sums of whole numbers, from their characteristic functions: no draws, no Monte Carlo error."""

from dataclasses import dataclass

import numpy as np
from scipy import fft

REACH_SDS = 12  # a sum is followed this many standard deviations to both sides,
REACH_STEPS = 32  # and this many steps more, because sums of rare events have longer tails


@dataclass(frozen=True, kw_only=True)
class Distribution:
    """The distribution of a random number."""

    values: np.ndarray  # its possible values, evenly spaced and ascending, shape `(num_values,)`
    probabilities: np.ndarray  # the probability of each, same shape

    @property
    def centre(self) -> float:
        return float(self.values[len(self.values) // 2])

    @property
    def reach(self) -> float:
        """The largest distance of a value from the centre."""
        return float(self.values[-1] - self.values[0]) / 2

    def at_most(self, limits: np.ndarray) -> np.ndarray:
        """Returns the probability of a value at most as large as each limit."""
        below = np.concatenate([[0.0], np.cumsum(self.probabilities)])
        probabilities: np.ndarray = below[np.searchsorted(self.values, limits, side="right")]
        return probabilities

    def at_least(self, limits: np.ndarray) -> np.ndarray:
        """Returns the probability of a value at least as large as each limit."""
        above = np.concatenate([np.cumsum(self.probabilities[::-1])[::-1], [0.0]])
        probabilities: np.ndarray = above[np.searchsorted(self.values, limits)]
        return probabilities


def ring_size(variance: float, reach: int, unit: int) -> int:
    """Returns a power of two such that a sum of whole numbers, taken modulo it, does not wrap onto itself.

    `reach` is the largest possible distance of the sum from its mean, `unit` the largest possible size of a single term.
    """
    needed = min(REACH_SDS * variance**0.5 + REACH_STEPS * unit, reach)
    return 1 << int(2 * needed + 2).bit_length()


def frequencies(ring: int) -> np.ndarray:
    """Returns the frequencies at which a characteristic function is needed, shape `(ring // 2 + 1,)`."""
    return 2 * np.pi / ring * np.arange(ring // 2 + 1)


def invert(spectrum: np.ndarray, ring: int, centre: int, weight: float) -> Distribution:
    """Turns the characteristic function of a sum of whole numbers into the distribution of `weight` times the sum.

    `spectrum` is the characteristic function at `frequencies(ring)`, `ring` the number of whole numbers that are told apart,
    and `centre` the one in their middle.
    """
    numbers = centre + np.arange(-ring // 2, ring // 2)
    probabilities = fft.irfft(spectrum, ring)[numbers % ring].clip(0)
    return Distribution(values=numbers * weight, probabilities=probabilities)
