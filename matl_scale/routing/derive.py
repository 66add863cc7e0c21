"""Derives the dense network of a sub-network from a routed trunk's graph, once for all routes.

The derived network runs the same operations in the same order, without routers. Its weights are inputs: slices for one
route's units. All routes keep the same number of units active, so all shapes are the same for every route.
"""

import operator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import fx, nn
from torch.nn import functional

from matl_scale.errors import InputError
from matl_scale.routing.batch_norm import RouteBatchNorm2d
from matl_scale.routing.layer_norms import RouteGroupNorm, RouteLayerNorm
from matl_scale.routing.router import TaskRouter
from matl_scale.routing.shared_prefix import Source, find_batches, module_of
from matl_scale.routing.slicing import AffineCut, Cut, Extremes, Fold, SliceRecipe, Table, check_sliceable
from matl_scale.routing.units import Channels, build_index_table, stack_columns

NO_VALUE = ("placeholder", "output", "get_attr")
RouteNorm = RouteBatchNorm2d | RouteLayerNorm | RouteGroupNorm


@dataclass(frozen=True, kw_only=True)
class Derived:
    """A dense network `(tensors, route, slices) → features`, where `tensors` are the values of `sources`, with the recipes of its
    slices, in order. A `Fold` makes two slices, every other recipe one."""

    dense: fx.GraphModule
    sources: list[Source]  # nodes of the trunk's graph, with all channels; some with a max pool
    tables: list[torch.Tensor]  # the active channels of each route, each of shape (num_routes, num_active)
    table_units: list[np.ndarray]  # the units of all channels of each table, each of shape (num_channels,)
    recipes: list[SliceRecipe]
    features: Table  # the table of the features' channels
    num_channels: int  # of the features, in the full trunk; 0 if they have no units


class ActiveNorm(nn.Module):
    """Applies a norm to the route's active channels alone."""

    def __init__(self, norm: RouteNorm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: torch.Tensor, route: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return self.norm.forward_active(x, route, weight, bias)


class Derivation:
    """Walks a routed trunk's graph and writes the dense one. Use `derive`."""

    def __init__(self, trunk: fx.GraphModule, common: set[fx.Node], pools: dict[fx.Node, fx.Node], fold: bool) -> None:
        self.trunk, self.common, self.pools, self.fold = trunk, common, pools, fold
        self.converted = set(trunk.graph.nodes) - common
        self.batches = find_batches(trunk)
        self.columns = unit_columns(trunk)
        # the routers' tables, which need not be built again
        self.known = {units_of(n).tobytes(): n.meta["active"] for n in trunk.graph.nodes if "active" in n.meta}
        self.tables: dict[bytes, tuple[int, torch.Tensor]] = {}
        self.table_units: list[np.ndarray] = []
        self.recipes: list[SliceRecipe] = []
        self.sources: list[Source] = []
        self.modules: dict[str, nn.Module] = {}
        self.graph = fx.Graph()
        self.tensors, self.route, self.slices = (
            self.graph.placeholder(name) for name in ("tensors", "route", "slices")
        )
        self.num_slices = 0
        self.values: dict[fx.Node, fx.Node] = {}

    def run(self) -> Derived:
        output = next(node for node in self.trunk.graph.nodes if node.op == "output")
        features = output.args[0]
        for node in self.trunk.graph.nodes:
            if (node.op == "get_attr" and node.users) or (node.op not in NO_VALUE and node in self.converted):
                self.values[node] = self.convert(node)
        self.graph.output(self.value(features))
        channels: Channels = features.meta["channels"]
        if channels.units is None:
            return self.finish(features=None, num_channels=0)
        # by channel: the number of features that a flatten makes of one depends on the size of the images
        table = self.table_of(channels.units[:: channels.pixels], "features")
        return self.finish(table, len(channels.units) // channels.pixels)

    def finish(self, features: Table, num_channels: int) -> Derived:
        """Returns the network, whose graph is complete."""
        self.graph.lint()
        return Derived(
            dense=fx.GraphModule(self.modules, self.graph, "Subnetwork"),
            sources=self.sources,
            recipes=self.recipes,
            features=features,
            num_channels=num_channels,
            tables=[table for _, table in self.tables.values()],
            table_units=self.table_units,
        )

    def convert(self, node: fx.Node) -> fx.Node:
        if node.op == "get_attr":
            return self.convert_parameter(node)
        if node in self.pools.values():
            return self.value(node.args[0])  # moved before the norm
        module = module_of(self.trunk, node)
        if module is None:
            return self.graph.node_copy(node, self.value)
        if isinstance(module, TaskRouter):
            return self.value(node.args[0])
        if isinstance(module, nn.Conv2d | nn.Linear):
            return self.convert_conv(node, module)
        if isinstance(module, RouteNorm):
            return self.convert_norm(node, module)
        self.modules[str(node.target)] = module
        return self.graph.node_copy(node, self.value)

    def value(self, node: Any) -> fx.Node:
        """Returns the dense graph's node for a node of the trunk. A common node is cut to the route's active channels."""
        if node not in self.values and node not in self.batches:
            self.values[node] = self.convert(node)  # the same for all images, or their number
        if node not in self.values:
            assert node in self.common, node
            value = self.next_source((node, None))
            channels: Channels = node.meta["channels"]
            if channels.units is not None:
                # a copy even if all channels are active: later operations may work in place, and other routes follow
                table = self.table(node, str(node.target))
                if table is None:
                    value = self.graph.call_function(torch.clone, (value,))
                else:
                    arguments = (value, channels.dim, self.add_slice(table))
                    value = self.graph.call_function(select_channels, arguments)
            self.values[node] = value
        return self.values[node]

    def next_source(self, source: Source) -> fx.Node:
        self.sources.append(source)
        return self.graph.call_function(operator.getitem, (self.tensors, len(self.sources) - 1))

    def convert_conv(self, node: fx.Node, module: nn.Conv2d | nn.Linear) -> fx.Node:
        check_sliceable(module, str(node.target))
        outputs, inputs = self.table(node, str(node.target)), None
        source: Channels = node.args[0].meta["channels"]  # type: ignore[union-attr]
        if source.units is not None and getattr(module, "groups", 1) == 1:
            inputs = self.table(node.args[0], str(node.target))
        weight = Cut(module=module, name="weight", outputs=outputs, inputs=inputs)
        bias = None if module.bias is None else Cut(module=module, name="bias", outputs=outputs)
        norm = self.norm_behind(node)
        x = self.value(node.args[0])
        if norm is not None:
            self.recipes.append(Fold(weight=weight, bias=bias, norm=norm, channels=outputs))
            tensors = [self.read_slice(), self.read_slice()]
        else:
            tensors = [self.add_slice(weight)] + ([] if bias is None else [self.add_slice(bias)])
        if isinstance(module, nn.Linear):
            return self.graph.call_function(functional.linear, (x, *tensors))
        return self.call_conv(module, x, tensors, outputs)

    def call_conv(self, module: nn.Conv2d, x: fx.Node, tensors: list[fx.Node], outputs: Table) -> fx.Node:
        padding = module.padding
        if module.padding_mode != "zeros":
            pads = list(module._reversed_padding_repeated_twice)
            x, padding = self.graph.call_function(functional.pad, (x, pads, module.padding_mode)), (0, 0)
        groups = module.groups
        if groups > 1 and outputs is not None:
            groups = groups * self.num_active(outputs) // module.out_channels
        options: Any = {"stride": module.stride, "padding": padding, "dilation": module.dilation, "groups": groups}
        return self.graph.call_function(functional.conv2d, (x, *tensors), options)

    def norm_behind(self, node: fx.Node) -> RouteBatchNorm2d | None:
        """Returns the batch norm that can be folded into a node: the only user of a conv's output."""
        user, *others = node.users
        if (
            not self.fold
            or others
            or user not in self.converted
            or not isinstance(module_of(self.trunk, node), nn.Conv2d)
        ):
            return None
        module = module_of(self.trunk, user)
        return module if isinstance(module, RouteBatchNorm2d) else None

    def convert_norm(self, node: fx.Node, norm: RouteNorm) -> fx.Node:
        source: Any = node.args[0]
        if source not in self.common and self.norm_behind(source) is norm:
            return self.value(source)
        key = f"norms.{str(node.target).replace('.', '_')}"
        self.modules[key] = ActiveNorm(norm)
        table = self.table(node, str(node.target))
        if node in self.pools:
            assert isinstance(norm, RouteBatchNorm2d)
            extremes = self.next_source((source, self.pools[node]))
            x = self.graph.call_function(
                select_channels, (extremes, 1, self.add_slice(Extremes(norm=norm, channels=table)))
            )
        else:
            x = self.value(source)
        cut = Cut if norm.affine_index is None else AffineCut
        affine = [self.add_slice(cut(module=norm, name=name, outputs=table)) for name in ("weight", "bias")]
        return self.graph.call_module(key, (x, self.route, *affine))

    def convert_parameter(self, node: fx.Node) -> fx.Node:
        owner, _, name = str(node.target).rpartition(".")
        channels: Channels = node.meta["channels"]
        tables: list[Table] = [None, None]
        tables[channels.dim] = self.table(node, str(node.target))
        return self.add_slice(
            Cut(module=self.trunk.get_submodule(owner), name=name, outputs=tables[0], inputs=tables[1])
        )

    def add_slice(self, recipe: Cut | Extremes | int) -> fx.Node:
        self.recipes.append(recipe)
        return self.read_slice()

    def read_slice(self) -> fx.Node:
        self.num_slices += 1
        return self.graph.call_function(operator.getitem, (self.slices, self.num_slices - 1))

    def table(self, node: Any, module: str) -> Table:
        """Returns the index table with the active channels of a node's value, for all routes."""
        units = node.meta["channels"].units
        return None if units is None else self.table_of(units, module)

    def table_of(self, units: np.ndarray, module: str) -> Table:
        key = units.tobytes()
        if not any(unit in self.columns for unit in units.tolist()):
            return None
        if key not in self.known:
            self.known[key] = build_index_table(stack_columns(self.columns, units), module)
        if self.known[key].shape[1] == len(units):
            return None
        if key not in self.tables:
            self.tables[key] = (len(self.tables), self.known[key])
            self.table_units.append(units)
        return self.tables[key][0]

    def num_active(self, table: int) -> int:
        return list(self.tables.values())[table][1].shape[1]


def select_channels(x: torch.Tensor, dim: int, channels: torch.Tensor) -> torch.Tensor:
    """`x.index_select(dim, channels)`, which keeps the memory format: torch itself would be slow where images have the channels
    last, and return them first."""
    if dim != 1 or x.ndim != 4 or x.is_contiguous() or not x.is_contiguous(memory_format=torch.channels_last):
        return x.index_select(dim, channels)
    pixels = x.movedim(1, -1)
    selected = pixels.flatten(0, 2).index_select(1, channels)
    return selected.view(*pixels.shape[:3], len(channels)).movedim(-1, 1)


def input_index(node: Any, name: str) -> int | None:
    """Returns which element of an input of a derived graph, as `slices`, a node reads; None if it reads none."""
    if not isinstance(node, fx.Node) or node.target is not operator.getitem:
        return None
    source, index = node.args
    is_input = isinstance(source, fx.Node) and source.op == "placeholder" and source.target == name
    return cast(int, index) if is_input else None


def units_of(node: fx.Node) -> Any:
    units = node.meta["channels"].units
    assert units is not None
    return units


def unit_columns(trunk: fx.GraphModule) -> dict[int, torch.Tensor]:
    """Returns the mask column of every routed unit, shape `(num_routes,)`, from the trunk's routers."""
    columns: dict[int, torch.Tensor] = {}
    for node in trunk.graph.nodes:
        if isinstance(module := module_of(trunk, node), TaskRouter):
            units = units_of(node).tolist()
            if not columns.keys() >= set(units):  # the routers of a stream repeat each other
                columns.update(zip(units, module.mask.cpu().unbind(dim=1), strict=True))
    return columns


def derive(
    trunk: fx.GraphModule,
    *,
    fold: bool,
    common: set[fx.Node] | None = None,
    pools: dict[fx.Node, fx.Node] | None = None,
) -> Derived:
    """Derives the dense network of a trunk from `route()`.

    Args:
        trunk: The trunk, which is left unchanged.
        fold: Whether to fold batch norms into convs, for evaluation.
        common: Nodes of its graph that are computed elsewhere, with all channels; None for the images alone.
        pools: Norms of common values whose max pool is computed before them, with the pool.

    Raises:
        InputError: A layer cannot be sliced. The message names it.
    """
    if any(node.op == "call_module" and "channels" not in node.meta for node in trunk.graph.nodes):
        raise InputError("The trunk should come from `route()` in this process, or from a copy of what it returned.")
    return Derivation(trunk, common or set(trunk.graph.find_nodes(op="placeholder")[:1]), pools or {}, fold).run()
