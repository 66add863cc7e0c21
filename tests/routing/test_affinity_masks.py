"""Masks of the strategy `affinity`: counts, use of all units, and how much two routes overlap, against the formula."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal, norm

from matl_scale import InputError, MaskSpec, draw_masks, route
from matl_scale.routing.affinity_masks import Closeness

NUM_SEEDS = 60


def closeness_of(num_routes: int, seed: int = 0, unknown: float = 0.0) -> np.ndarray:
    """Closeness as of labels with common causes, some of it unknown."""
    generator = np.random.default_rng(seed)
    values = np.abs(np.corrcoef(generator.standard_normal((num_routes, 3)) + 0.5))
    values[generator.random(values.shape) < unknown] = np.nan
    values = np.maximum(values, values.T)  # NaN wins
    np.fill_diagonal(values, np.nan)
    return np.minimum(values, 1)


def spec_of(values: np.ndarray, sigma: float = 0.5, **options: Any) -> MaskSpec:
    return MaskSpec(
        num_routes=len(values), sigma=sigma, strategy="affinity", closeness=Closeness(values=values), **options
    )


def mean_overlap(values: np.ndarray, sigma: float, num_units: int) -> np.ndarray:
    """The share of a layer's units that two routes have in common, over many seeds; shape `(num_routes, num_routes)`."""
    drawn = [draw_masks(spec_of(values, sigma, seed=seed), num_units, "x").double() for seed in range(NUM_SEEDS)]
    return np.asarray(torch.stack([mask @ mask.T for mask in drawn]).mean(dim=0) / num_units)


def orthant(correlation: float, sigma: float) -> float:
    """The probability that two standard normal numbers both exceed the quantile of 1 − σ."""
    both = multivariate_normal([0, 0], [[1, correlation], [correlation, 1]], allow_singular=True)
    return float(both.cdf([norm.ppf(sigma)] * 2))


@pytest.mark.parametrize(
    ("num_routes", "num_units", "sigma", "unknown"),
    [(2, 8, 0.5, 0), (7, 64, 0.5, 0.5), (10, 512, 0.1, 0), (40, 3, 0.1, 0), (175, 16, 0.5, 0.9), (3, 100, 0.1, 0),
     (5, 33, 1.0, 0)],
)  # fmt: skip
def test_every_route_keeps_its_share_and_every_unit_serves_one(
    num_routes: int, num_units: int, sigma: float, unknown: float
) -> None:
    mask = draw_masks(spec_of(closeness_of(num_routes, unknown=unknown), sigma, seed=1), num_units, "x")
    num_active = max(1, round(sigma * num_units))
    assert mask.dtype == torch.bool
    assert mask.sum(dim=1).tolist() == [num_active] * num_routes
    assert int(mask.any(dim=0).sum()) == num_units or num_routes * num_active < num_units


@pytest.mark.parametrize("num_routes", [2, 5, 30])
def test_identical_routes_differ_only_in_units_that_would_be_idle(num_routes: int) -> None:
    mask = draw_masks(spec_of(np.ones((num_routes, num_routes))), 60, "x")
    assert mask.any(dim=0).all()
    assert mask.sum(dim=1).tolist() == [30] * num_routes
    most_given_up = -(-30 // num_routes)  # so they are spread over the routes
    assert (mask.double() @ mask.double().T).min() >= 30 - 2 * most_given_up


@pytest.mark.parametrize("sigma", [0.25, 0.5, 0.75])
def test_overlap_follows_closeness_by_the_formula(sigma: float) -> None:
    """Pairs of routes of every closeness among routes that are not close to any other; ten of them leave few units idle."""
    levels = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    values = np.zeros((2 * len(levels), 2 * len(levels)))
    for i, level in enumerate(levels):
        values[2 * i, 2 * i + 1] = values[2 * i + 1, 2 * i] = level
    overlap = mean_overlap(values, sigma, 128)
    pairs = [overlap[2 * i, 2 * i + 1] for i in range(len(levels))]
    assert pairs == pytest.approx([orthant(level, sigma) for level in levels], abs=0.012)
    assert np.all(np.diff(pairs) > 0.01)
    assert overlap[0, 2:].mean() == pytest.approx(sigma**2, abs=0.004)


def test_the_formula_of_the_docs_is_the_orthant_probability() -> None:
    for sigma in (0.1, 0.5, 0.8):
        quantile = norm.ppf(1 - sigma)
        for correlation in (0.0, 0.3, 0.9):
            angles = np.linspace(0, np.arcsin(correlation), 2001)
            integral = np.exp(-(quantile**2) / (1 + np.sin(angles))).mean() * np.arcsin(correlation) / (2 * np.pi)
            assert sigma**2 + integral == pytest.approx(orthant(correlation, sigma), abs=1e-4)


def test_closeness_that_no_correlation_can_have_keeps_its_order() -> None:
    """a ~ b ~ c, but a and c unrelated: no correlations are (1, 1, 0)."""
    values = np.array([[1, 1, 0], [1, 1, 0.6], [0, 0.6, 1]])
    closeness = Closeness(values=values)
    expected = closeness.scale * values
    np.fill_diagonal(expected, 1)
    np.testing.assert_allclose(closeness.root @ closeness.root.T, expected, atol=1e-8)
    assert 0.8 < closeness.scale < 1
    among_others = np.zeros((12, 12))  # so that few units are idle
    among_others[:3, :3] = values
    overlap = mean_overlap(among_others, 0.5, 128)
    assert overlap[0, 1] > overlap[1, 2] + 0.02
    assert overlap[1, 2] > overlap[0, 2] + 0.02
    assert overlap[0, 2] == pytest.approx(0.25, abs=0.01)
    assert Closeness(values=closeness_of(20)).scale <= 1


def test_masks_depend_on_closeness_seed_and_layer_only() -> None:
    spec = spec_of(closeness_of(9), seed=3)
    first = draw_masks(spec, 32, "a")
    np.random.default_rng(5).random(7)
    assert torch.equal(first, draw_masks(spec_of(closeness_of(9), seed=3), 32, "a"))
    for other in (replace(spec, seed=4), spec_of(closeness_of(9, seed=8), seed=3)):
        assert not torch.equal(first, draw_masks(other, 32, "a"))
    assert not torch.equal(first, draw_masks(spec, 32, "b"))


def test_the_order_of_routes_does_not_matter_to_the_overlap() -> None:
    values, order = closeness_of(6), [3, 0, 5, 1, 4, 2]
    overlap, swapped = (mean_overlap(each, 0.5, 128) for each in (values, values[np.ix_(order, order)]))
    np.testing.assert_allclose(swapped, overlap[np.ix_(order, order)], atol=0.02)


def test_what_is_unknown_counts_as_unrelated_and_all_unknown_is_random() -> None:
    values = closeness_of(8, unknown=0.6)
    assert 0 < np.isnan(values[np.tril_indices(8, -1)]).sum() < 28
    filled = np.nan_to_num(values)
    assert torch.equal(draw_masks(spec_of(values), 64, "x"), draw_masks(spec_of(filled), 64, "x"))
    nothing = draw_masks(spec_of(np.full((8, 8), np.nan)), 64, "x")
    assert torch.equal(nothing, draw_masks(MaskSpec(num_routes=8, sigma=0.5), 64, "x"))


def test_aligned_counts() -> None:
    assert draw_masks(spec_of(closeness_of(6), 0.3, align=8), 64, "x").sum(dim=1).tolist() == [16] * 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strategy": "random"}, "`closeness` should be left out with the strategy random"),
        ({"num_routes": 4}, "`closeness` should have a row for each of the 4 routes. Got 3"),
        ({"closeness": Closeness}, "symmetric matrix"),
    ],
)
def test_closeness_that_does_not_fit_is_refused(options: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"num_routes": 3, "strategy": "affinity", "closeness": np.eye(3)} | options
    values = np.array([[0, 2], [2, 0]]) if given["closeness"] is Closeness else given["closeness"]
    with pytest.raises(InputError, match=message):
        MaskSpec(sigma=0.5, **given | {"closeness": Closeness(values=values)})


def test_route_needs_closeness_for_new_masks() -> None:
    with pytest.raises(InputError, match="`closeness` should say how close routes are"):
        route(torch.nn.Conv2d(3, 8, 3), 2, 0.5, strategy="affinity")
