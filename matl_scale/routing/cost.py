"""Counts the multiply-adds of one image's forward pass, layer by layer: of the whole trunk, and of a route's dense sub-network.

Convs, linear layers and the two products of attention are counted, from the shapes that a pass without values finds. Norms,
activations and pools multiply too, but next to nothing beside them, and profilers leave them out as well.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from matl_scale.routing.affine import initial_affine
from matl_scale.routing.attention import HeadAttention
from matl_scale.routing.derive import units_of
from matl_scale.routing.layers import matches_any
from matl_scale.routing.router import TaskRouter
from matl_scale.routing.shared_prefix import find_common, module_of
from matl_scale.routing.tracing import INPUT_SHAPE

COUNTED = nn.Conv2d | nn.Linear | HeadAttention
MEMORY_KEY = "matl_scale.costs"  # in the trunk's own `meta`


@dataclass(frozen=True, kw_only=True)
class LayerCost:
    """The multiply-adds of one layer for one image, forward."""

    layer: str  # the module's name in the trunk
    whole: int  # with all units
    active: int  # with a route's units
    before: frozenset[str]  # the modules with weights that its input depends on
    is_common: bool  # whether its output is the same for every route, so that it runs once for all of them
    has_weights: bool = True  # attention multiplies values with each other

    def training(self, frozen: Sequence[str] = ()) -> int:
        """Returns the multiply-adds of a forward and a backward pass, where modules that a pattern of `frozen` matches stay as
        they are. The gradients of weights and of the input cost as much as the forward pass each; the input needs one if
        something is trained before it. Without weights, both factors are inputs."""
        input_has_gradient = any(not matches_any(module, frozen) for module in self.before)
        has_gradient = not matches_any(self.layer, frozen) if self.has_weights else input_has_gradient
        return self.active * (1 + has_gradient + input_has_gradient)


@dataclass(frozen=True, kw_only=True)
class TrunkCosts:
    """What a trunk's layers cost, the same for each of its routes, and how many features it returns."""

    layers: tuple[LayerCost, ...]
    num_features: int
    num_active_features: int  # of them, those that can be other than zero for a route
    modules: frozenset[str]  # the modules with weights that the features depend on


def count_layers(trunk: fx.GraphModule, image_size: int) -> TrunkCosts:
    """Counts the multiply-adds of a trunk from `route()` for one image of `image_size` pixels.

    The trunk may be on the meta device; only its masks are read. It remembers the result.
    """
    remembered: dict[int, TrunkCosts] = trunk.meta.setdefault(MEMORY_KEY, {})
    if image_size not in remembered:
        remembered[image_size] = Counter(trunk, image_size).run()
    return remembered[image_size]


def pass_cost(trunk: fx.GraphModule, image_size: int) -> float:
    """Returns the share of the trunk's multiply-adds that a route's sub-network needs. All routes need as many."""
    layers = count_layers(trunk, image_size).layers
    return sum(layer.active for layer in layers) / sum(layer.whole for layer in layers)


class Counter:
    """Walks a routed trunk's graph. Use `count_layers`."""

    def __init__(self, trunk: fx.GraphModule, image_size: int) -> None:
        self.trunk = trunk
        self.shapes = find_shapes(trunk, image_size)
        self.common = find_common(trunk)
        self.is_active: dict[int, bool] = {}  # of the first route; of the units of routed layers
        for node in trunk.graph.nodes:
            if isinstance(module := module_of(trunk, node), TaskRouter):
                self.is_active.update(zip(units_of(node).tolist(), module.mask[0].tolist(), strict=True))

    def run(self) -> TrunkCosts:
        layers = []
        depends: dict[fx.Node, frozenset[str]] = {}  # for each node, the modules with weights that its value depends on
        for node in self.trunk.graph.nodes:
            module = module_of(self.trunk, node)
            before = frozenset[str]().union(*(depends[source] for source in node.all_input_nodes))
            if isinstance(module, COUNTED):
                layers.append(self.count(node, module, before))
            if module is not None and next(module.parameters(), None) is not None:
                before |= {str(node.target)}
            if node.op == "get_attr":
                before |= {str(node.target).rpartition(".")[0]}
            depends[node] = before
        (features,) = next(iter(self.trunk.graph.find_nodes(op="output"))).all_input_nodes
        num_features = self.shapes[features][1]
        return TrunkCosts(
            layers=tuple(layers),
            num_features=num_features,
            num_active_features=self.scale(num_features, features),
            modules=depends[features],
        )

    def count(self, node: fx.Node, module: nn.Module, before: frozenset[str]) -> LayerCost:
        return (self.count_attention if isinstance(module, HeadAttention) else self.count_layer)(node, module, before)

    def count_attention(self, node: fx.Node, _: nn.Module, before: frozenset[str]) -> LayerCost:
        """Counts the products of queries and keys, and of their weights and values."""
        *outer, num_tokens, num_channels = self.shapes[node]
        uses = 2 * prod(outer) * num_tokens**2
        return LayerCost(
            layer=str(node.target),
            whole=num_channels * uses,
            active=self.scale(num_channels, node) * uses,
            before=before,
            is_common=node in self.common,
            has_weights=False,
        )

    def count_layer(self, node: fx.Node, module: Any, before: frozenset[str]) -> LayerCost:
        num_inputs, num_outputs = module.weight.shape[:2][::-1]  # of a grouped conv, the inputs of one group
        is_grouped = isinstance(module, nn.Conv2d) and module.groups > 1
        active_inputs = num_inputs if is_grouped else self.scale(num_inputs, node.all_input_nodes[0])
        # how often each weight is used: once per pixel of the output
        uses = prod(module.weight.shape[2:]) * prod(self.shapes[node]) // num_outputs
        return LayerCost(
            layer=str(node.target),
            whole=num_inputs * num_outputs * uses,
            active=active_inputs * self.scale(num_outputs, node) * uses,
            before=before,
            is_common=node in self.common,
        )

    def scale(self, num_channels: int, node: fx.Node) -> int:
        """Returns how many of a value's channels, or of the features that a flatten made of them, are active for a route."""
        if node.meta["channels"].units is None:
            return num_channels
        units = units_of(node).tolist()
        return num_channels * sum(self.is_active.get(unit, True) for unit in units) // len(units)


def find_shapes(trunk: fx.GraphModule, image_size: int) -> dict[fx.Node, torch.Size]:
    """Returns the shape of every tensor in a routed trunk's graph for one image, by running it on the meta device."""
    on_meta = copy.deepcopy(trunk).to("meta", torch.float32).eval()
    shape = trunk.meta.get(INPUT_SHAPE) or (3, image_size, image_size)
    image = torch.empty(1, *shape, device="meta", dtype=torch.float32)
    ShapeProp(on_meta).propagate(image, torch.zeros(1, dtype=torch.long, device="meta"), initial_affine(on_meta))
    twins = zip(trunk.graph.nodes, on_meta.graph.nodes, strict=True)
    found = {node: twin.meta.get("tensor_meta") for node, twin in twins}  # lists and numbers have none
    return {node: meta.shape for node, meta in found.items() if hasattr(meta, "shape")}
