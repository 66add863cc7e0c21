"""Variants whose runs vary far more than those of the others, and would hide what is different between these.

The model takes the noise of all variants to be equal. A variant that its budget has hardly trained may vary a hundred times as
much as the rest: then it is compared by the noise of all, and the rest by their own; and so on among the rest.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from matl_scale.report.sweep.macro import compare_pair, find_highest
from matl_scale.report.sweep.two_way import TwoWayFit, fit_two_way

LEVEL = 0.001  # of the test of noise: so seldom are the others judged by a noise that is too small by chance


@dataclass(frozen=True, kw_only=True)
class Fits:
    """The model of all variants, and of what is left each time that one is set aside."""

    fits: Sequence[TwoWayFit]  # that of all variants first
    set_aside: Sequence[int]  # variants in their order; each fit is without one more of them
    num_variants: int

    def find(self, first: int, second: int) -> int:
        """Returns the number of the fit by which two variants are compared: the last one that has both."""
        rounds = {variant: number for number, variant in enumerate(self.set_aside)}
        return min(rounds.get(first, len(self.set_aside)), rounds.get(second, len(self.set_aside)))

    def of_pair(self, first: int, second: int) -> tuple[TwoWayFit, int, int]:
        """Returns the fit by which two variants are compared, and their indices in it."""
        number = self.find(first, second)
        gone = self.set_aside[:number]
        left = [variant for variant in range(self.num_variants) if variant not in gone]
        return self.fits[number], left.index(first), left.index(second)

    @property
    def whole(self) -> TwoWayFit:
        return self.fits[0]

    @property
    def calm(self) -> TwoWayFit:
        """The fit of the variants that are not set aside."""
        return self.fits[-1]

    @property
    def times_as_much(self) -> float:
        """How many times the standard deviation of the others that of the variants set aside is."""
        return float(np.sqrt(split_noise(self.whole, self.calm)[0]))


def fit_nested(values: np.ndarray, set_aside: Sequence[int]) -> Fits:
    """Fits the model to figures, shape `(num_variants, num_seeds, num_tasks)`, of all variants, and without one more of those set
    aside each time."""
    fits = [fit_two_way(np.delete(values, list(set_aside[:number]), axis=0)) for number in range(len(set_aside) + 1)]
    return Fits(fits=fits, set_aside=set_aside, num_variants=len(values))


def find_set_aside(values: np.ndarray, alpha: float) -> list[int]:
    """Returns the variants without which the noise of the others is estimated, the noisiest first.

    Each is worse than the best one, by the noise of all that are left with it, and an F test at 0.001 says that this noise is
    larger than without it. Where others have no noise at all, nobody is set aside: figures that move in steps hide it.

    Args:
        values: Means over tasks, shape `(num_variants, num_seeds)`; NaN where a run is missing.
        alpha: The level at which variants are called worse.
    """
    kept, aside = list(range(len(values))), list[int]()
    while len(kept) > 2:
        whole = fit_two_way(values[kept, :, None])
        best = find_highest(whole)
        worse = [i for i in range(len(kept)) if compare_pair(whole, best, i, alpha).p <= alpha]
        tested = {i: split_noise(whole, fit_two_way(np.delete(values[kept], i, axis=0)[:, :, None]))[1] for i in worse}
        noisiest = min(tested, key=lambda i: tested[i], default=None)
        if noisiest is None or tested[noisiest] > LEVEL:
            break
        aside.append(kept.pop(noisiest))
    return aside


def split_noise(whole: TwoWayFit, rest: TwoWayFit) -> tuple[float, float]:
    """Returns the variance that some variants add over that of the rest, and the p value of their being equal; 1 and 1 where it
    is not known."""
    added = whole.freedom - rest.freedom
    if not added or not rest.freedom or not rest.variances[0]:
        return 1.0, 1.0
    squares = whole.freedom * whole.variances[0] - rest.freedom * rest.variances[0]
    ratio = float(squares / added / rest.variances[0])
    return ratio, float(special.fdtrc(added, rest.freedom, max(ratio, 0.0)))
