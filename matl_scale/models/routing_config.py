"""The section `routing` of a config: which tasks share a route, and what of the trunk a route uses."""

from dataclasses import dataclass, field, replace
from typing import Literal, cast

import numpy as np

from matl_scale.automatic import AUTO, Auto, chosen
from matl_scale.errors import InputError, check_at_least
from matl_scale.routing.affine import Affine
from matl_scale.routing.batch_norm import Statistics
from matl_scale.routing.masks import MaskSpec, Strategy

Execution = Literal["subnetwork", "masked"]
Grouping = Literal["affinity", "random", "order"]
DENSE_SHARE = 0.3  # with `auto`
Setting = Literal["auto", "task", "one"] | int | dict[str, list[str] | str] | str

NEEDS_IDLE_UNITS = {"roaming": "there is none to move to", "magnitude": "there is nothing to choose"}


@dataclass(frozen=True, kw_only=True)
class RoutingConfig:
    """Which tasks share a route, and which part of the trunk each route uses."""

    routes: Setting = "auto"
    """Which tasks share a route: `task` (each has its own: the paper's way), `one` (all share it), how many routes to form,
    name → task patterns, or a run's routes.parquet. `auto`: one; where σ or other settings of `routing` ask for routes, by how
    many labels an image has."""
    grouping: Grouping = "affinity"
    """How a number of routes is formed: tasks whose training labels go together (`affinity`), at `random`, or in the `order`
    of the shard set."""
    sigma: float | Auto = "auto"
    """Sharing ratio σ: the fraction of a layer's units that a route keeps. 1 = all shared; with `routes` one, that is
    the plain network (hard sharing). `auto`: 1 with one route, else 0.75, or 0.9 with weights that others have trained."""
    sigma_last: float | Literal["none"] = "none"
    """σ of the last routed layers: σ goes linearly with depth, from `sigma` at the first ones to this. `none`: the same σ at
    every depth."""
    sigmas: dict[str, float] = field(default_factory=dict)
    """Module pattern → σ of these layers; the last pattern that matches counts, other layers have `sigma`, or what `sigma_last`
    makes of it."""
    layers: list[str] | str = "*"
    """The modules whose layers are routed: a name pattern, or a list of patterns (`layer4` is everything in it). The others
    keep all units for all routes and share their norm statistics; what lies before the first routed layer is evaluated once
    for all routes."""
    start: str | Auto = "auto"
    """A module pattern: layers before the first one that it matches are not routed (`layer3`: from there on). Empty: all are.
    `auto`: empty; with weights that others have trained, the last sixth of the trunk's multiply-adds."""
    strategy: Strategy = "random"
    """`random` units per route, or `partition`: a fraction σ of the units common to all, the others split between them.
    `affinity`: routes whose tasks' training labels go together have more units in common, unrelated ones as many as random.
    `roaming`: random at first; then each route gives up a unit of each layer at every `interval`, and takes one that it has not
    tried, until it has tried all. `magnitude`: all routes have all units at first; after `dense_share` of the run, each keeps
    those that matter most to its tasks."""
    interval: int | Auto = "auto"
    """Steps between two moves of the masks, with the strategy roaming. `auto`: so that each route has tried all units after 80 %
    of the run, as far as each route is drawn between two moves."""
    dense_share: float | Auto = "auto"
    """With the strategy magnitude, the share of the run's steps in which every route has all units; which of them matter to a
    route is measured in the second half of these steps. `auto`: 0.3."""
    statistics: Statistics | Literal["task"] | Auto = "auto"
    """What batch norms normalise by. `route` (`task` in older configs): in training by a micro-step's own images, in evaluation
    by running statistics of the route. `shared`: the same with running statistics that all routes share (to compare with).
    `step`: all micro-steps of a step run as one batch, normalised over all ranks, with shared running statistics; training then
    computes all units. `auto`: `route`; `step` where several routes train weights that others have trained, if σ is at least 0.9
    and no other setting forbids it."""
    affine: Affine = "shared"
    """Weights and biases of the norms in routed layers: `shared` by all routes, or each `route` has its own, a few numbers that
    train when it runs, at the rate of its heads. Norms in layers that are not routed share theirs."""
    execution: Execution = "subnetwork"
    """`subnetwork` computes only the active route's units. `masked` computes all units and switches the others off: the same
    result at the cost of the whole network, for backbones with layers that cannot be sliced."""
    align: int = 1
    """The number of each layer's active units is a multiple of this; 8 suits the matrix units of GPUs. The run's config.yaml
    says what fraction of units that made active."""

    def __post_init__(self) -> None:
        if self.statistics == "task":
            object.__setattr__(self, "statistics", "route")
        if isinstance(self.routes, dict):  # YAML reads the name 1 as a number
            object.__setattr__(self, "routes", {str(name): tasks for name, tasks in self.routes.items()})
        if isinstance(self.layers, str):
            object.__setattr__(self, "layers", [self.layers])
        check_at_least(1, {"routing.interval": self.interval})
        if self.interval != AUTO and self.strategy != "roaming":
            raise InputError(
                f"`routing.interval` should be auto with the strategy {self.strategy}, whose masks do not move. Got "
                f"{self.interval}."
            )
        self._check_strategy()
        if isinstance(self.routes, int) and self.routes < 1:
            raise InputError(f"`routing.routes` should be at least 1. Got {self.routes}.")
        if isinstance(self.routes, dict) and not self.routes:
            raise InputError("`routing.routes` should name at least one route with its task patterns. Got {}.")
        if isinstance(self.routes, dict) and "" in self.routes:
            raise InputError("`routing.routes` should name every route. Got an empty name.")

    def given_sigmas(self) -> list[float | Auto]:
        """Returns every σ that the section gives."""
        return [self.sigma, *self.sigmas.values(), *([] if self.sigma_last == "none" else [self.sigma_last])]

    def asks_for_routes(self) -> bool:
        """Returns whether a setting beside σ and `routes` is about routes with units of their own."""
        is_usual = self.layers == ["*"] and not self.first_layer and self.strategy == "random"
        return not is_usual or bool(self.sigmas) or self.sigma_last != "none"

    def _check_strategy(self) -> None:
        if self.dense_share != AUTO and not 0 < self.dense_share < 1:
            raise InputError(f"`routing.dense_share` should be above 0 and below 1, or auto. Got {self.dense_share}.")
        if self.dense_share != AUTO and self.strategy != "magnitude":
            raise InputError(
                f"`routing.dense_share` should be auto with the strategy {self.strategy}, which has no dense part. Got "
                f"{self.dense_share}."
            )
        if self.strategy in NEEDS_IDLE_UNITS and all(sigma == 1 for sigma in self.given_sigmas()):
            raise InputError(
                f"`routing.strategy` = {self.strategy} needs `routing.sigma` below 1: with 1, which is also what auto takes for "
                f"a single route, every route has all units, and {NEEDS_IDLE_UNITS[self.strategy]}. Set a smaller σ, or the "
                "strategy random."
            )

    @property
    def first_layer(self) -> str:
        """The pattern of the first routed layer; empty for all, which is also what an open `start` is until it is chosen."""
        return "" if self.start == AUTO else self.start

    @property
    def norm_statistics(self) -> Statistics:
        """`statistics`, which are those of routes until they are chosen."""
        return "route" if self.statistics == AUTO else cast(Statistics, self.statistics)

    @property
    def dense_part(self) -> float:
        """The share of a run in which every route has all units; 0 if there is no such part."""
        if self.strategy != "magnitude":
            return 0.0
        return DENSE_SHARE if self.dense_share == AUTO else self.dense_share

    def of_subnetworks(self) -> "RoutingConfig":
        """Returns settings that draw masks of the size that routes have after the dense part, if there is one."""
        return replace(self, strategy="random", dense_share=AUTO) if self.dense_part else self

    def of_training(self) -> "RoutingConfig":
        """Returns settings that draw masks of the size that a training pass computes: all units where routes are one batch."""
        if self.statistics != "step":
            return self.of_subnetworks()
        return replace(self, sigma=1.0, sigmas={}, sigma_last="none", strategy="random", interval=AUTO)

    def mask_spec(self, num_routes: int, seed: int, closeness: np.ndarray | None = None) -> MaskSpec:
        """Returns how the masks of a network with `num_routes` routes are drawn, for `affinity` from how close routes are
        (`Closeness`)."""
        by_closeness = None
        if closeness is not None:
            from matl_scale.routing.affinity_masks import Closeness  # a served network does not draw its masks by it

            by_closeness = Closeness(values=closeness)
        return MaskSpec(
            num_routes=num_routes,
            sigma=chosen(self.sigma),
            sigma_last=None if self.sigma_last == "none" else self.sigma_last,
            sigmas=self.sigmas,
            layers=list(self.layers),
            start=self.first_layer,
            strategy=self.strategy,
            closeness=by_closeness,
            align=self.align,
            seed=seed,
        )


def describe_range(config: RoutingConfig) -> str:
    """Says what σ is, from the first routed layers to the last."""
    first = f"{chosen(config.sigma):g}"
    return first if config.sigma_last == "none" else f"{first} to {config.sigma_last:g} with depth"
