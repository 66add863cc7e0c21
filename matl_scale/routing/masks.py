"""Routing masks: strategies that draw the units of a layer that each route keeps active. All routes keep the same number.

Sources: Strezoski, van Noord, Worring, Many Task Learning With Task Routing, ICCV 2019, arXiv 1903.12117. Here σ is the
fraction of units that stay active; the authors' code counts the fraction that is switched off.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import torch

from matl_scale.errors import InputError, NarrowLayerError
from matl_scale.seeds import derive_seed

if TYPE_CHECKING:
    from matl_scale.routing.affinity_masks import Closeness

Strategy = Literal["random", "partition", "affinity", "roaming", "magnitude"]
# strategies whose masks follow from a config; those of the others are in the checkpoints
DRAWN: tuple[Strategy, ...] = ("random", "partition")
SCORE_DIGITS = 6


@dataclass(frozen=True, kw_only=True)
class MaskSpec:
    """How the masks of a network are drawn. With a layer's name and its number of units it decides that layer's mask.

    Attributes:
        num_routes: The number of routes, R.
        sigma: Sharing ratio: the fraction of units that a route keeps, or that all routes have in common (`partition`).
        sigma_last: If given, the sharing ratio of the last routed layers; it goes linearly with depth from `sigma` to this
            (`layers.choose_sigmas`).
        sigmas: Sharing ratios of some layers, by patterns of module names (`layers.matches`); the last one that matches counts.
        layers: Patterns of the modules whose convs are routed.
        start: A pattern: layers before the first conv that it matches are not routed. Empty for none.
        strategy: `random`, `partition`, `affinity`, `roaming`, whose masks are random ones at first, or `magnitude`, with which
            all routes keep all units until their scores are known (`keep_best`).
        closeness: How close routes are, for `affinity`. Without it they count as unrelated, which serves to count what a network
            costs.
        align: The number of units that a route keeps is a multiple of this, unless σ = 1, which keeps all units.
        seed: The run's seed.

    Raises:
        InputError: The strategy is unknown, or `sigma` or `num_routes` is out of range, or `closeness` does not fit them.
    """

    num_routes: int
    sigma: float
    sigma_last: float | None = None
    sigmas: Mapping[str, float] = field(default_factory=dict)
    layers: Sequence[str] = ("*",)
    start: str = ""
    strategy: Strategy = "random"
    closeness: "Closeness | None" = None
    align: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.strategy not in get_args(Strategy):
            raise InputError(
                f"`routing.strategy` should be one of {', '.join(get_args(Strategy))}. Got {self.strategy!r}."
            )
        last = {} if self.sigma_last is None else {"sigma_last": self.sigma_last}
        given = {"sigma": self.sigma} | last | {f"sigmas.{name}": value for name, value in self.sigmas.items()}
        for key, sigma in given.items():
            if not (0 < sigma <= 1 or (sigma == 0 and self.strategy == "partition")):
                valid = (
                    "from 0 to 1"
                    if self.strategy == "partition"
                    else "above 0 and at most 1: a route needs units of its own or shared ones"
                )
                raise InputError(f"`routing.{key}` should be {valid}. Got {sigma}.")
        if self.num_routes < 1:
            raise InputError(f"`num_routes` should be at least 1. Got {self.num_routes}.")
        if self.closeness is not None and self.strategy != "affinity":
            raise InputError(f"`closeness` should be left out with the strategy {self.strategy}: it is for `affinity`.")
        if self.closeness is not None and len(self.closeness.values) != self.num_routes:
            raise InputError(
                f"`closeness` should have a row for each of the {self.num_routes} routes. Got {len(self.closeness.values)}."
            )

    def count_active(self, num_units: int) -> int:
        """Returns how many of a layer's units a route keeps, but for `partition`: σ·C, rounded to a multiple of `align`, at least
        one multiple."""
        if self.sigma == 1:
            return num_units
        return min(max(1, round(self.sigma * num_units / self.align)), num_units // self.align) * self.align


@dataclass(frozen=True, kw_only=True)
class EarlierMasks:
    """Masks that routes keep from an earlier network.

    Attributes:
        masks: By the name of the router, bool, shape `(num_earlier_routes, num_units)`.
        route_ids: For each route of the new network its index in the earlier one, or None for a new route.
        route_names: The routes of the new network. A new route's masks are drawn from its name, so that they do not depend
            on the other routes.
    """

    masks: Mapping[str, torch.Tensor]
    route_ids: Sequence[int | None]
    route_names: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class UnitScores:
    """How much each unit matters to each route (`magnitude`).

    Attributes:
        scores: By the name of the router, float64, shape `(num_routes, num_units)`. Routers of one stream agree on its units.
    """

    scores: Mapping[str, torch.Tensor]


def draw_masks(spec: MaskSpec, num_units: int, layer: str) -> torch.Tensor:
    """Draws the routing mask of one layer. A pure function of its arguments: the same on every rank and device.

    Args:
        spec: How masks are drawn.
        num_units: The number of units, C.
        layer: The layer's name; each name gives a draw of its own.

    Returns:
        Bool mask on the CPU, shape `(num_routes, num_units)`, with the same number of active units for every route.

    Raises:
        InputError: σ leaves a route without a unit (`NarrowLayerError` under `partition`), or the layer is narrower than
            `align`.
    """
    if not 1 <= spec.align <= num_units:
        raise InputError(
            f"`routing.align` should be from 1 to the number of units of every layer; layer `{layer}` has {num_units}. "
            f"Got {spec.align}."
        )
    if spec.strategy == "magnitude":  # dense at first
        return torch.ones(spec.num_routes, num_units, dtype=torch.bool)
    seed = derive_seed(spec.seed, "masks", layer)
    generator = torch.Generator().manual_seed(seed)
    if spec.closeness is not None and np.isfinite(spec.closeness.pairs).any():
        from matl_scale.routing.affinity_masks import draw_by_affinity  # a served network draws none

        return torch.from_numpy(draw_by_affinity(spec.closeness, num_units, spec.count_active(num_units), seed))
    if spec.strategy != "partition":
        return draw_random(spec.num_routes, num_units, spec.count_active(num_units), generator)
    num_shared, num_private = split_units(spec, num_units, layer)
    return draw_partition(spec.num_routes, num_units, num_shared, num_private, generator)


def extend_masks(spec: MaskSpec, earlier: EarlierMasks, masks: torch.Tensor, layer: str) -> torch.Tensor:
    """Keeps one layer's masks of earlier routes, shape `(num_earlier_routes, num_units)`, and draws those of new routes beside
    them: shape `(num_routes, num_units)`.

    Raises:
        InputError: The earlier routes keep another number of units, or all units belong to them (`partition`).
    """
    num_units, num_active = masks.shape[1], int(masks[0].sum())
    if None in earlier.route_ids:
        if spec.strategy == "partition":
            raise InputError(
                "`routing.strategy` = partition splits all units between the routes, so there are none left for new ones. Add "
                "routes to a network with the strategy random, or train anew."
            )
        if num_active != spec.count_active(num_units):
            raise InputError(
                "`routing.sigma` and `routing.align` should be those of the network to start from: its routes keep "
                f"{num_active} of the {num_units} units of layer `{layer}`, not {spec.count_active(num_units)}."
            )
    one_route = replace(spec, num_routes=1, closeness=None)
    return torch.cat(
        [
            draw_masks(one_route, num_units, f"{layer}\0{name}") if route_id is None else masks[route_id : route_id + 1]
            for route_id, name in zip(earlier.route_ids, earlier.route_names, strict=True)
        ]
    )


def keep_best(scores: torch.Tensor, num_active: int) -> torch.Tensor:
    """Keeps the units of a layer that score highest for each route.

    Scores are compared to `SCORE_DIGITS` significant digits, fewer than float32 has, in which ranks exchange them: the last bits
    of sums, which depend on the number of ranks, then decide next to nothing. Of equal ones, the units with lower indices are
    kept. Units that no route keeps stay idle: what is put to use for its own sake would take the place of a unit that matters.

    Args:
        scores: Not negative, float64, shape `(num_routes, num_units)`.
        num_active: How many units each route keeps.

    Returns:
        Bool mask on the CPU, shape `(num_routes, num_units)`.
    """
    values = scores.cpu()
    exponents = torch.floor(torch.log10(values.clamp(min=torch.finfo(torch.float64).tiny)))
    unit = 10.0 ** (exponents - (SCORE_DIGITS - 1)).clamp(min=-300)
    order = (torch.round(values / unit) * unit).argsort(dim=1, descending=True, stable=True)
    masks = torch.zeros(scores.shape, dtype=torch.bool)
    return masks.scatter_(1, order[:, :num_active], True)


def draw_random(num_routes: int, num_units: int, num_active: int, generator: torch.Generator) -> torch.Tensor:
    """Draws a uniformly random subset of units per route, as the authors do, then puts idle units to use.

    Independent draws leave a fraction (1 − σ)^R of the units to no route. Each idle unit replaces, in one route, a unit that
    at least two routes keep. So every unit serves a route wherever R·k ≥ C.
    """
    order = torch.rand(num_routes, num_units, generator=generator).argsort(dim=1)
    masks = torch.zeros(num_routes, num_units, dtype=torch.bool)
    masks.scatter_(1, order[:, :num_active], True)
    uses = masks.sum(dim=0)
    for unit in torch.nonzero(uses == 0).flatten().tolist():
        spare = torch.nonzero(masks & (uses >= 2))
        if not len(spare):
            break  # R·k < C: some units have to stay idle
        route, given_up = spare[torch.randint(len(spare), (1,), generator=generator)].flatten().tolist()
        masks[route, given_up], masks[route, unit] = False, True
        uses[given_up] -= 1
        uses[unit] += 1
    return masks


def split_units(spec: MaskSpec, num_units: int, layer: str) -> tuple[int, int]:
    """Returns how many units of a layer all routes share, and how many each route has to itself.

    Raises:
        NarrowLayerError: There are too few units.
    """
    split = find_split(spec, num_units)
    if split is None:
        raise explain_narrow(spec, num_units, layer)
    return split


def find_split(spec: MaskSpec, num_units: int) -> tuple[int, int] | None:
    """Returns how many units all routes share, and how many each route has to itself; None if there are too few.

    Units that cannot be split evenly become shared, so that every route keeps the same number and no unit is idle. At
    σ = 0, where nothing may be shared, they stay idle.
    """
    wanted = round(spec.sigma * num_units)
    if wanted == num_units:
        return num_units, 0
    for num_private in range((num_units - wanted) // spec.num_routes, 0, -1):
        num_shared = num_units - spec.num_routes * num_private if spec.sigma > 0 else 0
        if (num_shared + num_private) % spec.align == 0:
            return num_shared, num_private
    return None


def find_most_routes(spec: MaskSpec, num_units: int) -> int:
    """Returns between how many routes the units of a layer can be split; 1 if between no two."""
    most = num_units - round(spec.sigma * num_units)
    return next((k for k in range(most, 1, -1) if find_split(replace(spec, num_routes=k), num_units)), 1)


def explain_narrow(spec: MaskSpec, num_units: int, layer: str) -> NarrowLayerError:
    """Returns the error of a layer whose units cannot be split between so many routes: with how many it could, and how wide it
    would have to be."""
    wanted, most = round(spec.sigma * num_units), find_most_routes(spec, num_units)
    least = next(units for units in itertools.count(num_units + 1) if find_split(spec, units))
    widening = least / num_units
    multiple = f" so that each keeps a multiple of `routing.align` = {spec.align}" if spec.align > 1 else ""
    fewer = f"at most {most} routes, " if most > 1 else ""
    return NarrowLayerError(
        f"`routing.strategy` = partition: layer `{layer}` has {num_units} units, {wanted} of them shared at "
        f"`routing.sigma` = {spec.sigma}; the other {num_units - wanted} cannot be split between {spec.num_routes} "
        f"routes{multiple}. Take {fewer}a network at least {math.ceil(100 * widening) / 100:g} times as wide (`model.width`; "
        f"{least} units in this layer), sigma = 1, or the strategy `random`.",
        widening,
    )


def draw_partition(
    num_routes: int, num_units: int, num_shared: int, num_private: int, generator: torch.Generator
) -> torch.Tensor:
    """Draws the units that all routes share, and splits the others between the routes without overlap.

    σ = 0 gives each route a network of its own, σ = 1 is hard sharing.
    """
    order = torch.randperm(num_units, generator=generator)
    masks = torch.zeros(num_routes, num_units, dtype=torch.bool)
    masks[:, order[:num_shared]] = True
    private = order[num_shared : num_shared + num_routes * num_private]
    return masks.scatter_(1, private.view(num_routes, num_private), True)
