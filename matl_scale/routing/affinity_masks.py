"""Masks of routes whose labels go together overlap more: the strategy `affinity`. Pure functions of their arguments, without
torch."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from matl_scale.errors import InputError

SMALLEST_EIGENVALUE = 1e-10  # smaller ones are rounding errors, which a square root would enlarge
KEY_DECIMALS = 6  # so that rounding errors, which differ between machines, do not decide between equal keys


@dataclass(frozen=True, kw_only=True, eq=False)
class Closeness:
    """How close routes are to each other.

    Attributes:
        values: Symmetric, from 0, unrelated, to 1; shape `(num_routes, num_routes)`. NaN, unknown, counts as 0. The diagonal
            does not matter.

    Raises:
        InputError: The values are not symmetric, or out of range.
    """

    values: np.ndarray

    def __post_init__(self) -> None:
        values = self.filled
        if values.ndim != 2 or not np.array_equal(values, values.T) or values.min() < 0 or values.max() > 1:
            raise InputError(
                "The closeness of routes should be a symmetric matrix with values from 0 to 1, NaN where it is unknown."
            )

    @property
    def filled(self) -> np.ndarray:
        """The values as float64, with 1 on the diagonal and without NaN."""
        filled = np.nan_to_num(self.values.astype(np.float64), nan=0.0)
        np.fill_diagonal(filled, 1)
        return filled

    @property
    def pairs(self) -> np.ndarray:
        """The values of all pairs of routes, NaN where they are unknown; shape `(num_pairs,)`."""
        pairs: np.ndarray = self.values[np.tril_indices(len(self.values), -1)]
        return pairs

    @cached_property
    def scale(self) -> float:
        """What values are multiplied by so that they can be correlations: 1 if they can be as they are, else the largest number
        with which the matrix has no negative eigenvalue."""
        return float(1 / (1 + max(0.0, -np.linalg.eigvalsh(self.filled)[0])))

    @cached_property
    def root(self) -> np.ndarray:
        """The symmetric square root of the matrix of correlations, shape `(num_routes, num_routes)`."""
        correlations = self.scale * self.filled
        np.fill_diagonal(correlations, 1)
        eigenvalues, vectors = np.linalg.eigh(correlations)
        lengths = np.sqrt(np.where(eigenvalues < SMALLEST_EIGENVALUE, 0, eigenvalues))
        root: np.ndarray = (vectors * lengths) @ vectors.T
        return root


def draw_by_affinity(closeness: Closeness, num_units: int, num_active: int, seed: int) -> np.ndarray:
    """Draws masks of which two overlap the more, the closer their routes are.

    Every route r has a key for every unit: z_r = (z_1r, …, z_Cr), standard normal numbers that are independent between units
    and have the correlation ρ_rs = scale · closeness_rs between routes (a Gaussian copula). A route keeps the k units with its
    largest keys. With q the normal quantile of 1 − σ, σ = k / C, two routes then have in common about the share

        P(z_r > q, z_s > q) = σ² + 1/2π ∫₀^arcsin ρ exp(−q² / (1 + sin t)) dt    (σ = ½: ¼ + arcsin(ρ) / 2π)

    of a layer's units. It rises with ρ, from σ², where the routes are unrelated and overlap as random masks do, to σ for ρ = 1.
    Source of the integral: R. L. Plackett, A reduction formula for normal multivariate integrals, Biometrika 41, 1954.

    Then idle units are put to use, see `use_idle_units`.

    Args:
        closeness: Of the routes.
        num_units: The number of units, C.
        num_active: The number of units that a route keeps, k.
        seed: Another one gives other keys.

    Returns:
        Bool, shape `(num_routes, num_units)`.
    """
    noise = np.random.default_rng(seed).standard_normal((len(closeness.values), num_units))
    keys = np.round(closeness.root @ noise, KEY_DECIMALS)
    masks = np.zeros(keys.shape, dtype=bool)
    np.put_along_axis(masks, np.argsort(-keys, axis=1, kind="stable")[:, :num_active], values=True, axis=1)
    use_idle_units(masks, keys)
    return masks


def use_idle_units(masks: np.ndarray, keys: np.ndarray) -> None:
    """Puts units that no route keeps to use, in place, wherever R·k ≥ C: each replaces, in one route, a unit that at least two
    routes keep. Of all such changes, the one is made that goes least against the keys; all have shape
    `(num_routes, num_units)`."""
    uses = masks.sum(axis=0)
    for unit in np.flatnonzero(uses == 0):
        spare = np.where(masks & (uses >= 2), keys, np.inf)
        given_up = spare.argmin(axis=1)
        loss = spare.min(axis=1) - keys[:, unit]
        route = int(loss.argmin())
        if np.isinf(loss[route]):
            break  # R·k < C: some units have to stay idle
        masks[route, given_up[route]], masks[route, unit] = False, True
        uses[given_up[route]] -= 1
        uses[unit] += 1
