"""Sub-network execution: a route's forward and backward pass on its own units, by slices of the trunk's parameters.

The trunk stays the owner of all parameters and buffers. The results equal those of the trunk itself (masked execution), at
about σ² of the cost.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import fx, nn

from matl_scale.errors import InputError
from matl_scale.routing.affine import AffineWeights
from matl_scale.routing.derive import Derived, derive, unit_columns
from matl_scale.routing.slicing import AffineCut, Cut, Extremes, Fold, Indices, SliceRecipe, StackedIndices, is_common
from matl_scale.routing.units import active_indices, build_index_table, stack_columns

if TYPE_CHECKING:  # a served network is not trained
    from matl_scale.routing.slice_gradients import SliceGradients


class SlicedNetwork(nn.Module):
    """A derived network with its index tables, on the device of its trunk. It gathers one route's slices; subclasses also
    run them."""

    def __init__(self, trunk: fx.GraphModule, derived: Derived) -> None:
        super().__init__()
        self.trunk, self.dense = trunk, derived.dense
        self.recipes, self.num_channels, self._features = derived.recipes, derived.num_channels, derived.features
        device = next(iter(trunk.buffers())).device
        self.num_tables, self._table_units = len(derived.tables), derived.table_units
        for number, table in enumerate(derived.tables):
            # a copy, because masks of copies of a trunk may move without it
            self.register_buffer(f"table_{number}", table.to(device, copy=True), persistent=False)

    def follow_masks(self) -> None:
        """Derives the index tables again, in place, after the masks of the trunk have changed (`routing.move`)."""
        columns = unit_columns(self.trunk)
        for number, units in enumerate(self._table_units):
            table = build_index_table(stack_columns(columns, units), "sub-network")
            self.get_buffer(f"table_{number}").copy_(table)

    def active_features(self, route: torch.Tensor) -> torch.Tensor | None:
        """Returns the indices of the route's active channels among those of the features, shape `(num_active,)`; None for
        all."""
        return None if self._features is None else self._indices(self._features, route)

    def _indices(self, table: int, route: torch.Tensor) -> torch.Tensor:
        return active_indices(self.get_buffer(f"table_{table}"), route)

    def indices(self, route: torch.Tensor) -> Indices:
        """Returns the route's active indices from every table."""
        if len(route) != 1:
            raise InputError(
                f"A sub-network runs batches of one route. Got {len(route)} routes in one batch: run them through the trunk "
                "that `route()` returns (`routing.execution` = masked), or route by route."
            )
        return {None: None} | {number: self._indices(number, route) for number in range(self.num_tables)}

    def stacked_indices(self, routes: torch.Tensor) -> StackedIndices:
        """Returns the active indices of the routes of several slots from every table, each of shape `(num_slots, num_active)`."""
        tables = {number: self.get_buffer(f"table_{number}") for number in range(self.num_tables)}
        return {None: None} | {number: table.index_select(0, routes).long() for number, table in tables.items()}

    def gather(
        self,
        route: torch.Tensor,
        common: dict[int, list[Any]] | None = None,
        affine: AffineWeights = None,
        gradients: "SliceGradients | None" = None,
    ) -> list[Any]:
        """Returns one route's slices of the trunk's parameters, in the order of the recipes. Gradients flow back into the
        parameters.

        Args:
            route: The route, integers of shape `(1,)`.
            common: Holds slices that are the same for all routes, by recipe, between calls with the same weights; empty at the
                first. None makes all of them anew.
            affine: The route's own affine weights of norms; None if all routes share them.
            gradients: Adds the gradients of slices to those of parameters; None leaves it to autograd.
        """
        indices = self.indices(route)
        slices: list[Any] = []
        for number, recipe in enumerate(self.recipes):
            if common is None or not is_common(recipe):
                slices += self._make(recipe, indices, route, affine, gradients)
            else:
                if number not in common:
                    common[number] = self._make(recipe, indices, route, affine, gradients)
                slices += common[number]
        return slices

    def _make(
        self,
        recipe: SliceRecipe,
        indices: Indices,
        route: torch.Tensor,
        affine: AffineWeights,
        gradients: "SliceGradients | None",
    ) -> list[Any]:
        """Makes the slices of a recipe: tensors, unless a subclass makes something else of them."""
        if isinstance(recipe, AffineCut):
            return [recipe.make_own(indices, affine)]
        if isinstance(recipe, Cut):
            return [recipe.make(indices, gradients)]
        if isinstance(recipe, Extremes):
            return [recipe.make(indices, affine)]
        if isinstance(recipe, Fold):
            return list(recipe.make(indices, route, affine))
        return [self._indices(recipe, route)]

    def widen(self, features: torch.Tensor, route: torch.Tensor) -> torch.Tensor:
        """Puts a sub-network's features at their indices in the full channel dimension, with zeros elsewhere, for the heads."""
        indices = self.active_features(route)
        if indices is None:
            return features
        by_channel = features.view(len(features), len(indices), -1)
        wide = by_channel.new_zeros(len(features), self.num_channels, by_channel.shape[2])
        return wide.index_copy(1, indices, by_channel).flatten(1)


class Subnetwork(SlicedNetwork):
    """Runs one route's sub-network of a routed trunk, with the trunk's own inputs and outputs.

    Args:
        trunk: From `route()`. Its parameters and buffers are used, not copied.

    Raises:
        InputError: A layer cannot be sliced. The message names it.
    """

    def __init__(self, trunk: fx.GraphModule) -> None:
        super().__init__(trunk, derive(trunk, fold=False))

    def forward(
        self,
        images: torch.Tensor,
        route: torch.Tensor,
        slices: list[torch.Tensor] | None = None,
        affine: AffineWeights = None,
    ) -> torch.Tensor:
        """Returns the features of one route's sub-network.

        Args:
            images: Shape `(batch, 3, height, width)`.
            route: The active route, integers of shape `(1,)`.
            slices: From `gather`, if several batches share them; by default they are gathered here.
            affine: The route's own affine weights, if it has any and the slices are gathered here.

        Returns:
            Shape `(batch, num_features)`, zero where features are inactive for the route.
        """
        features = self.dense([images], route, self.gather(route, affine=affine) if slices is None else slices)
        return self.widen(features, route)
