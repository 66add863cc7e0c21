"""Routing masks: counts, coverage, purity, and the two ends of `partition`."""

import pytest
import torch

from matl_scale import InputError, MaskSpec, draw_masks
from matl_scale.routing.masks import keep_best

CASES = [(1, 8, 0.5), (7, 64, 0.5), (10, 512, 0.1), (40, 3, 0.1), (175, 16, 0.5), (312, 100, 0.03), (5, 33, 1.0)]


@pytest.mark.parametrize(("num_routes", "num_units", "sigma"), CASES)
def test_random_keeps_exactly_the_rounded_share_and_covers_every_unit(
    num_routes: int, num_units: int, sigma: float
) -> None:
    mask = draw_masks(MaskSpec(num_routes=num_routes, sigma=sigma, seed=1), num_units, "features.0")
    num_active = max(1, round(sigma * num_units))
    assert mask.shape == (num_routes, num_units)
    assert mask.dtype == torch.bool
    assert mask.sum(dim=1).tolist() == [num_active] * num_routes
    if num_routes * num_active >= num_units:
        assert mask.any(dim=0).all()


def test_independent_draws_would_leave_dead_units_that_the_repair_brings_to_life() -> None:
    generator = torch.Generator().manual_seed(0)
    spec = MaskSpec(num_routes=10, sigma=0.1)
    naive = torch.rand(10, 510, generator=generator).argsort(dim=1)[:, : spec.count_active(510)].unique().numel()
    assert naive < 0.7 * 510  # the 35 % of the design
    assert draw_masks(spec, 510, "x").any(dim=0).all()


def test_random_masks_overlap_as_independent_draws_do() -> None:
    mask = draw_masks(MaskSpec(num_routes=200, sigma=0.5), 256, "x").float()
    overlap = (mask @ mask.T)[~torch.eye(200, dtype=torch.bool)] / 256
    assert abs(overlap.mean() - 0.25) < 0.005
    assert overlap.std() < 0.03


def test_masks_depend_on_seed_and_layer_only() -> None:
    first = draw_masks(MaskSpec(num_routes=9, sigma=0.5, seed=3), 32, "a")
    torch.manual_seed(99)
    torch.rand(5)
    assert torch.equal(first, draw_masks(MaskSpec(num_routes=9, sigma=0.5, seed=3), 32, "a"))
    assert not torch.equal(first, draw_masks(MaskSpec(num_routes=9, sigma=0.5, seed=4), 32, "a"))
    assert not torch.equal(first, draw_masks(MaskSpec(num_routes=9, sigma=0.5, seed=3), 32, "b"))


@pytest.mark.parametrize(
    ("num_routes", "num_units", "sigma"), [(4, 64, 0.5), (7, 64, 0.3), (3, 100, 0.0), (5, 20, 0.7)]
)
def test_partition_shares_some_units_and_splits_the_rest(num_routes: int, num_units: int, sigma: float) -> None:
    mask = draw_masks(MaskSpec(num_routes=num_routes, sigma=sigma, strategy="partition"), num_units, "x")
    users = mask.sum(dim=0)
    private = (num_units - round(sigma * num_units)) // num_routes
    assert set(users.tolist()) <= ({0, 1} if sigma == 0 else {1, num_routes})
    assert ((users == 1) & mask).sum(dim=1).tolist() == [private] * num_routes
    assert len(set(mask.sum(dim=1).tolist())) == 1


def test_partition_at_one_is_hard_sharing() -> None:
    assert draw_masks(MaskSpec(num_routes=9, sigma=1.0, strategy="partition"), 16, "x").all()


@pytest.mark.parametrize(("sigma", "strategy"), [(0.0, "random"), (-0.1, "random"), (1.1, "partition"), (0.5, "magic")])
def test_bad_sigma_or_strategy_is_refused(sigma: float, strategy: str) -> None:
    with pytest.raises(InputError, match=r"`routing\.(sigma|strategy)`"):
        draw_masks(MaskSpec(num_routes=4, sigma=sigma, strategy=strategy), 16, "x")  # type: ignore[arg-type]


def test_partition_without_a_unit_per_task_is_refused_by_layer() -> None:
    with pytest.raises(InputError, match=r"layer `conv1` has 16 units"):
        draw_masks(MaskSpec(num_routes=175, sigma=0.5, strategy="partition"), 16, "conv1")


@pytest.mark.parametrize(
    ("num_units", "sigma", "num_active"), [(64, 0.3, 16), (64, 0.5, 32), (60, 0.97, 56), (8, 0.1, 8), (33, 1.0, 33)]
)
def test_aligned_counts_are_multiples_near_sigma(num_units: int, sigma: float, num_active: int) -> None:
    mask = draw_masks(MaskSpec(num_routes=12, sigma=sigma, align=8), num_units, "x")
    assert mask.sum(dim=1).tolist() == [num_active] * 12


@pytest.mark.parametrize(("num_routes", "num_units", "sigma"), [(2, 64, 0.5), (5, 64, 0.25), (3, 128, 0.0)])
def test_aligned_partition(num_routes: int, num_units: int, sigma: float) -> None:
    mask = draw_masks(MaskSpec(num_routes=num_routes, sigma=sigma, strategy="partition", align=8), num_units, "x")
    counts = mask.sum(dim=1)
    assert (counts == counts[0]).all()
    assert counts[0] % 8 == 0
    assert set(mask.sum(dim=0).tolist()) <= {0, 1, num_routes}


def test_alignment_above_the_width_is_refused_by_layer() -> None:
    with pytest.raises(InputError, match=r"`routing.align` should be .* layer `features.3` has 12.*Got 16"):
        draw_masks(MaskSpec(num_routes=4, sigma=0.5, align=16), 12, "features.3")
    with pytest.raises(InputError, match=r"layer `x` has 16 units.*multiple of `routing.align` = 8"):
        draw_masks(MaskSpec(num_routes=7, sigma=0.5, strategy="partition", align=8), 16, "x")


def test_the_best_units_are_kept_and_the_last_digits_decide_nothing() -> None:
    scores = torch.rand(5, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) ** 20
    mask = keep_best(scores, 12)
    assert mask.sum(dim=1).tolist() == [12] * 5
    for kept, row in zip(mask, scores, strict=True):
        assert row[kept].min() >= row[~kept].max()
    assert torch.equal(keep_best(scores * (1 + 1e-13), 12), mask)
    assert torch.equal(keep_best(scores * 1e-30, 12), mask)


def test_of_equal_units_the_first_are_kept() -> None:
    scores = torch.tensor([[0.0, 0.0, 0.0, 0.0], [1.0, 2.0 - 1e-13, 2.0, 2.0 + 1e-13]], dtype=torch.float64)
    assert keep_best(scores, 2).tolist() == [[True, True, False, False], [False, True, True, False]]


def test_magnitude_begins_with_all_units() -> None:
    assert draw_masks(MaskSpec(num_routes=3, sigma=0.5, strategy="magnitude"), 8, "a").all()
