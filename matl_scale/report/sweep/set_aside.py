"""Variants whose runs vary far more than those of the others, and would hide what is different between these.

The model takes the noise of all variants to be equal. A variant that its budget has hardly trained may vary a hundred times as
much as the rest: then it is compared by the noise of all, and the rest by their own.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import special

from matl_scale.report.sweep.macro import compare_pair, find_highest
from matl_scale.report.sweep.two_way import TwoWayFit, fit_two_way

LEVEL = 0.001  # of the test of noise: so seldom are the others judged by a noise that is too small by chance


@dataclass(frozen=True, kw_only=True)
class Fits:
    """The model of all variants, and that of those that are not set aside."""

    whole: TwoWayFit
    calm: TwoWayFit  # the same as `whole` if none is set aside
    places: Mapping[int, int]  # variant → its index in `calm`

    def of_pair(self, first: int, second: int) -> tuple[TwoWayFit, int, int]:
        """Returns the model by which two variants are compared, and their indices in it."""
        if first in self.places and second in self.places:
            return self.calm, self.places[first], self.places[second]
        return self.whole, first, second

    @property
    def times_as_much(self) -> float:
        """How many times the standard deviation of the others that of the variants set aside is."""
        return float(np.sqrt(split_noise(self.whole, self.calm)[0]))


def fit_both(values: np.ndarray, set_aside: list[int]) -> Fits:
    """Fits the model to figures, shape `(num_variants, num_seeds, num_tasks)`, of all variants and without those set aside."""
    whole, calm = fit_two_way(values), [i for i in range(len(values)) if i not in set_aside]
    places = {variant: place for place, variant in enumerate(calm)}
    return Fits(whole=whole, calm=fit_two_way(values[calm]) if set_aside else whole, places=places)


def find_set_aside(values: np.ndarray, alpha: float) -> list[int]:
    """Returns the variants, ascending, without which the noise of the others is estimated.

    They are worse than the best one, by the noise of all, and an F test at 0.001 says that the noise with them is larger than
    without. Where others have no noise at all, nobody is set aside: figures that move in steps hide it.

    Args:
        values: Means over tasks, shape `(num_variants, num_seeds)`; NaN where a run is missing.
        alpha: The level at which variants are called worse.
    """
    kept = list(range(len(values)))
    while len(kept) > 2:
        whole = fit_two_way(values[kept, :, None])
        best = find_highest(whole)
        worse = [i for i in range(len(kept)) if compare_pair(whole, best, i, alpha).p <= alpha]
        tested = {i: split_noise(whole, fit_two_way(np.delete(values[kept], i, axis=0)[:, :, None]))[1] for i in worse}
        noisiest = min(tested, key=lambda i: tested[i], default=None)
        if noisiest is None or tested[noisiest] > LEVEL:
            break
        del kept[noisiest]
    return sorted(set(range(len(values))) - set(kept))


def split_noise(whole: TwoWayFit, rest: TwoWayFit) -> tuple[float, float]:
    """Returns the variance that some variants add over that of the rest, and the p value of their being equal; 1 and 1 where it
    is not known."""
    added = whole.freedom - rest.freedom
    if not added or not rest.freedom or not rest.variances[0]:
        return 1.0, 1.0
    squares = whole.freedom * whole.variances[0] - rest.freedom * rest.variances[0]
    ratio = float(squares / added / rest.variances[0])
    return ratio, float(special.fdtrc(added, rest.freedom, max(ratio, 0.0)))
