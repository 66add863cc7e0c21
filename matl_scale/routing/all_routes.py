"""Evaluation of many routes on the same images. What does not depend on the route is computed once per batch."""

import operator
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import fx, nn

from matl_scale.routing.affine import AffineWeights
from matl_scale.routing.batch_norm import RouteBatchNorm2d
from matl_scale.routing.derive import Derivation, Derived, derive
from matl_scale.routing.packing import PackedWeight, can_pack, let_convs_be_packed
from matl_scale.routing.shared_prefix import Source, find_common, find_early_pools, module_of
from matl_scale.routing.slicing import Fold, Indices, SliceRecipe, Table, find_bypassed
from matl_scale.routing.subnetwork import SlicedNetwork

if TYPE_CHECKING:  # of training
    from matl_scale.routing.slice_gradients import SliceGradients


class PackingNetwork(SlicedNetwork):
    """A derived network for evaluation, whose slices for convs are packed where that is faster."""

    def __init__(self, trunk: fx.GraphModule, derived: Derived) -> None:
        super().__init__(trunk, derived)
        packable, number = let_convs_be_packed(self.dense), 0
        self._packable: list[SliceRecipe] = []
        for recipe in self.recipes:
            if number in packable:
                self._packable.append(recipe)
            number += 2 if isinstance(recipe, Fold) else 1

    def _make(
        self,
        recipe: SliceRecipe,
        indices: Indices,
        route: torch.Tensor,
        affine: AffineWeights,
        gradients: "SliceGradients | None",
    ) -> list[Any]:
        weight, *others = super()._make(recipe, indices, route, affine, gradients)
        is_packed = can_pack(weight) and any(recipe is each for each in self._packable)
        return [PackedWeight(weight) if is_packed else weight, *others]


class AllRoutes(PackingNetwork):
    """Evaluates many routes on the same images.

    What does not depend on the route is computed once per batch, if possible including the first max pool. Batch norms are
    folded into the slices of the convs before them. The trunk has to be in evaluation mode when this runs.

    Raises:
        InputError: A layer cannot be sliced. The message names it.
    """

    def __init__(self, trunk: fx.GraphModule) -> None:
        common = find_common(trunk)
        derived = derive(trunk, fold=True, common=common, pools=find_early_pools(trunk, common))
        super().__init__(trunk, derived)
        self.common = PackingNetwork(trunk, derive_common(trunk, common, derived.sources))

    def gather_common(self) -> list[Any]:
        """Returns the slices with which `prepare` computes what all routes have in common."""
        return self.common.gather(self._any_route())

    def prepare(self, images: torch.Tensor, slices: list[Any] | None = None) -> list[torch.Tensor]:
        """Computes what all routes have in common. Returns tensors whose first dimension is the batch.

        Args:
            images: Shape `(batch, 3, height, width)`.
            slices: From `gather_common`, if several batches share them; by default they are gathered here.
        """
        gathered = self.gather_common() if slices is None else slices
        return cast(list[torch.Tensor], self.common.dense([images], self._any_route(), gathered))

    def _any_route(self) -> torch.Tensor:
        return torch.zeros(1, dtype=torch.long, device=next(iter(self.trunk.buffers())).device)

    def forward(self, prepared: list[torch.Tensor], route: torch.Tensor, slices: list[Any]) -> torch.Tensor:
        """Returns one route's features, shape `(batch, num_features)`, zero where they are inactive, from what `prepare` returned
        for all images of the batch or some of them, and the route's slices from `gather`."""
        return self.widen(self.dense(prepared, route, slices), route)


class CommonDerivation(Derivation):
    """Derives the network that computes what all routes have in common: the same operations as the trunk's, with batch norms
    folded into the convs before them, and without routers. Use `derive_common`."""

    def __init__(self, trunk: fx.GraphModule, common: set[fx.Node], sources: list[Source]) -> None:
        images, *others = trunk.graph.find_nodes(op="placeholder")
        super().__init__(trunk, {images}, {}, fold=True)
        unused = {node for node in trunk.graph.find_nodes(op="get_attr") if common.isdisjoint(node.users)}
        self.converted = common - unused - set(others)
        self.wanted = sources

    def run(self) -> Derived:
        sources = {source for source, _ in self.wanted}
        copies: dict[fx.Node, fx.Node] = {}  # of what others may change in place before it is returned
        for node in self.trunk.graph.nodes:
            if node not in self.converted:
                continue
            self.values[node] = self.value(node) if node in self.common else self.convert(node)
            if node in sources and len(node.users) > 1:
                copies[node] = self.graph.call_function(torch.clone, (self.values[node],))
        self.graph.output([self.result(copies.get(node) or self.values[node], pool) for node, pool in self.wanted])
        return self.finish(features=None, num_channels=0)

    def convert(self, node: fx.Node) -> fx.Node:
        if not self.is_module_needed(node):
            return super().convert(node)
        self.modules[str(node.target)] = self.trunk.get_submodule(str(node.target))
        return self.graph.node_copy(node, self.value)

    def norm_behind(self, node: fx.Node) -> RouteBatchNorm2d | None:
        return None if self.is_module_needed(node) else super().norm_behind(node)

    def is_module_needed(self, node: fx.Node) -> bool:
        """Returns whether a layer does more than apply its weight and bias. As nothing is cut, it runs as it is."""
        module = module_of(self.trunk, node)
        return isinstance(module, nn.Conv2d | nn.Linear) and bool(find_bypassed(module))

    def table_of(self, units: np.ndarray, module: str) -> Table:  # noqa: ARG002
        """Returns no table: common values have all channels, those of routed layers too."""
        return None

    def result(self, value: fx.Node, pool: fx.Node | None) -> fx.Node:
        """Returns the node of a value; with a pool, of the largest and the smallest values of its windows, concatenated along
        the channels."""
        if pool is None:
            return value
        self.modules[str(pool.target)] = self.trunk.get_submodule(str(pool.target))
        largest = self.graph.call_module(str(pool.target), (value,))
        negative = self.graph.call_module(str(pool.target), (self.graph.call_function(operator.neg, (value,)),))
        return self.graph.call_function(torch.cat, ([largest, self.graph.call_function(operator.neg, (negative,))], 1))


def derive_common(trunk: fx.GraphModule, common: set[fx.Node], sources: list[Source]) -> Derived:
    """Derives the network `([images], route, slices) → values of sources` from the common nodes of a trunk. It runs with any
    route."""
    return CommonDerivation(trunk, common, sources).run()
