"""The section `routing` of a config: which tasks share a route, and what of the trunk a route uses."""

from dataclasses import dataclass, field
from typing import Literal

from matl_scale.automatic import Auto, chosen
from matl_scale.errors import InputError
from matl_scale.routing.affine import Affine
from matl_scale.routing.batch_norm import Statistics
from matl_scale.routing.masks import MaskSpec, Strategy

Execution = Literal["subnetwork", "masked"]
Grouping = Literal["affinity", "random", "order"]
Setting = Literal["auto", "task", "one"] | int | dict[str, list[str] | str] | str


@dataclass(frozen=True, kw_only=True)
class RoutingConfig:
    """Which tasks share a route, and which part of the trunk each route uses."""

    routes: Setting = "auto"
    """Which tasks share a route: `task` (each has its own: the paper's way), `one` (all share it), how many routes to form,
    name → task patterns, or a run's routes.parquet. `auto` chooses by how many labels an image has, and says why."""
    grouping: Grouping = "affinity"
    """How a number of routes is formed: tasks whose training labels go together (`affinity`), at `random`, or in the `order`
    of the shard set."""
    sigma: float | Auto = "auto"
    """Sharing ratio σ: the fraction of a layer's units that a route keeps. 1 = all shared; with `routes` one, that is
    the plain network (hard sharing). `auto`: 1 with one route, else 0.75."""
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
    start: str = ""
    """A module pattern: layers before the first one that it matches are not routed (`layer3`: from there on)."""
    strategy: Strategy = "random"
    """`random` units per route, or `partition`: a fraction σ of the units common to all, the others split between them."""
    statistics: Statistics | Literal["task"] = "route"
    """Running norm statistics per `route` (`task` in older configs), or `shared` by all routes (to compare with)."""
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
        if isinstance(self.routes, int) and self.routes < 1:
            raise InputError(f"`routing.routes` should be at least 1. Got {self.routes}.")
        if isinstance(self.routes, dict) and not self.routes:
            raise InputError("`routing.routes` should name at least one route with its task patterns. Got {}.")
        if isinstance(self.routes, dict) and "" in self.routes:
            raise InputError("`routing.routes` should name every route. Got an empty name.")

    def given_sigmas(self) -> list[float | Auto]:
        """Returns every σ that the section gives."""
        return [self.sigma, *self.sigmas.values(), *([] if self.sigma_last == "none" else [self.sigma_last])]

    def mask_spec(self, num_routes: int, seed: int) -> MaskSpec:
        """Returns how the masks of a network with `num_routes` routes are drawn."""
        return MaskSpec(
            num_routes=num_routes,
            sigma=chosen(self.sigma),
            sigma_last=None if self.sigma_last == "none" else self.sigma_last,
            sigmas=self.sigmas,
            layers=list(self.layers),
            start=self.start,
            strategy=self.strategy,
            align=self.align,
            seed=seed,
        )


def describe_range(config: RoutingConfig) -> str:
    """Says what σ is, from the first routed layers to the last."""
    first = f"{chosen(config.sigma):g}"
    return first if config.sigma_last == "none" else f"{first} to {config.sigma_last:g} with depth"
