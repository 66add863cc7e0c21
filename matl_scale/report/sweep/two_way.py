"""The model of a sweep's figures: value = variant + seed + error, fitted to all tasks at once.

A seed is a block: all variants that were trained with it share its luck (the draw of heads, the order of images). So variants are
compared within seeds, and what is left, over all variants, is the noise that differences are judged by. With all runs there
it is the analysis of variance of a two-way layout, with (V − 1)(S − 1) degrees of freedom; with some missing, least squares on
the rest.
"""

from dataclasses import dataclass

import numpy as np

ROUNDING = 1e-12  # differences of metrics below it are rounding errors, not differences


@dataclass(frozen=True, kw_only=True)
class TwoWayFit:
    """The fitted model. Variants that agree to the last bit in all seeds and tasks are one variant in it."""

    # of each variant, as if all had all seeds, shape `(num_variants, num_tasks)`; over its own seeds if not all can be compared
    means: np.ndarray
    effects: np.ndarray  # of each variant, up to a constant in each group that can be compared, same shape
    unscaled: np.ndarray  # covariance of the effects over the variance of the error, `(num_variants, num_variants)`
    connected: np.ndarray  # which variants can be compared, through seeds that they share, bool, same shape
    residuals: np.ndarray  # the error as independent numbers, shape `(freedom, num_tasks)`
    num_distinct: int  # variants, of those that agree in everything one

    @property
    def freedom(self) -> int:
        """Degrees of freedom of the error; 0 if nothing can be told."""
        return len(self.residuals)

    @property
    def variances(self) -> np.ndarray:
        """The variance of the error of each task, shape `(num_tasks,)`; NaN without a degree of freedom."""
        if not self.freedom:
            return np.full(self.residuals.shape[1], np.nan)
        squares: np.ndarray = np.square(self.residuals).mean(axis=0)
        return np.where(squares < ROUNDING**2, 0.0, squares)

    def differences(self, first: int, second: int) -> np.ndarray:
        """Returns the effect of the first variant less that of the second, shape `(num_tasks,)`; NaN where no seeds tie them."""
        if not self.connected[first, second]:
            return np.full(self.means.shape[1], np.nan)
        found = self.effects[first] - self.effects[second]
        return np.where(np.abs(found) < ROUNDING, 0.0, found)

    def scale(self, first: int, second: int) -> float:
        """Returns the variance of a difference over the variance of the error: 2 / seeds if all runs are there."""
        cov = self.unscaled
        return float(max(cov[first, first] + cov[second, second] - 2 * cov[first, second], 0.0))


def fit_two_way(values: np.ndarray) -> TwoWayFit:
    """Fits the model by least squares.

    Source: Scheffé, *The Analysis of Variance*, 1959, chapter 4 (two-way layouts with one observation per cell).

    Args:
        values: Shape `(num_variants, num_seeds, num_tasks)`; NaN in all tasks where a run is missing.
    """
    kept, index_of = distinct_rows(values)
    chosen = values[kept]
    chosen = chosen[:, np.isfinite(chosen).all(axis=2).any(axis=0)]  # without seeds that no variant has
    num_variants, num_seeds, _ = chosen.shape
    variants, seeds = np.nonzero(np.isfinite(chosen).all(axis=2))
    observed = chosen[variants, seeds]
    design = np.zeros((len(variants), num_variants + num_seeds))
    design[np.arange(len(variants)), variants] = 1
    design[np.arange(len(variants)), num_variants + seeds] = 1
    inverse = np.linalg.pinv(design)
    left, singular, _ = np.linalg.svd(design, full_matrices=True)
    rank = int((singular > 1e-9 * max(singular, default=0.0)).sum())
    resolution = (inverse @ design)[:num_variants]  # a contrast can be estimated if it leaves the contrast unchanged
    contrasts = np.eye(num_variants)[:, None] - np.eye(num_variants)[None]
    wanted = np.concatenate([contrasts, np.zeros((num_variants, num_variants, num_seeds))], axis=2)
    connected = np.isclose(contrasts @ resolution, wanted).all(axis=2)
    both = np.ix_(index_of, index_of)
    residuals = left[:, rank:].T @ observed
    if num_variants == 1:  # all agree, in several seeds: it is known that there is no error between them
        residuals = np.zeros(((len(values) - 1) * (len(observed) - 1), values.shape[2]))
    coefficients = inverse @ observed
    effects = coefficients[:num_variants]
    means = effects + coefficients[num_variants:].mean(axis=0) if connected.all() else np.nanmean(chosen, axis=1)
    return TwoWayFit(
        means=means[index_of],
        effects=effects[index_of],
        unscaled=(inverse @ inverse.T)[:num_variants, :num_variants][both],
        connected=connected[both],
        residuals=residuals,
        num_distinct=num_variants,
    )


def distinct_rows(values: np.ndarray) -> tuple[list[int], list[int]]:
    """Returns the first variant of each group that agrees to the last bit, and the group of every variant.

    Copies would be counted as independent runs that happen to agree, so that the noise seemed smaller than it is.
    """
    kept: list[int] = []
    groups: list[int] = []
    for i, row in enumerate(values):
        same = (number for number, j in enumerate(kept) if np.array_equal(row, values[j], equal_nan=True))
        group = next(same, len(kept))
        if group == len(kept):
            kept.append(i)
        groups.append(group)
    return kept, groups
