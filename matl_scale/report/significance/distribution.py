"""Exact distributions of sums of whole numbers, from their characteristic functions: no draws, no Monte Carlo error."""

from dataclasses import dataclass

import numpy as np
from scipy import fft

REACH_SDS = 12  # a sum is followed this many standard deviations to both sides,
REACH_STEPS = 32  # and as many steps: sums of rare events have longer tails


@dataclass(frozen=True, kw_only=True)
class Distribution:
    """Of a random number: evenly spaced ascending values and their probabilities, both `(num_values,)`."""

    values: np.ndarray
    probabilities: np.ndarray

    @property
    def centre(self) -> float:
        return float(self.values[len(self.values) // 2])

    @property
    def reach(self) -> float:
        """How far the values go from the centre."""
        return float(self.values[-1] - self.values[0]) / 2

    def at_most(self, limits: np.ndarray) -> np.ndarray:
        """Returns the probability of a value at most as large as each limit."""
        below = np.concatenate([[0.0], np.cumsum(self.probabilities)])
        heights: np.ndarray = below[np.searchsorted(self.values, limits, side="right")]
        return heights

    def at_least(self, limits: np.ndarray) -> np.ndarray:
        """Returns the probability of a value at least as large as each limit."""
        above = np.concatenate([np.cumsum(self.probabilities[::-1])[::-1], [0.0]])
        heights: np.ndarray = above[np.searchsorted(self.values, limits)]
        return heights


def ring_size(variance: float, reach: int, unit: int) -> int:
    """Returns a power of two that holds a sum of whole numbers, at most `reach` away from its mean, without overlap.

    Args:
        variance: Of the sum.
        reach: How far it can be away from its mean.
        unit: How large a single term can be.
    """
    needed = min(REACH_SDS * variance**0.5 + REACH_STEPS * unit, reach)
    return 1 << int(2 * needed + 2).bit_length()


def frequencies(ring: int) -> np.ndarray:
    """Returns where a characteristic function is needed, shape `(ring // 2 + 1,)`."""
    return 2 * np.pi / ring * np.arange(ring // 2 + 1)


def invert(spectrum: np.ndarray, ring: int, centre: int, weight: float) -> Distribution:
    """Turns a characteristic function into the distribution of the whole numbers around `centre`, times `weight`."""
    numbers = centre + np.arange(-ring // 2, ring // 2)
    probabilities = fft.irfft(spectrum, ring)[numbers % ring].clip(0)
    return Distribution(values=numbers * weight, probabilities=probabilities)
