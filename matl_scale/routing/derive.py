"""Derives the dense network of a sub-network from a routed trunk's graph, once for all tasks.

The derived network has the same operations in the same order, without routers. Its weights are inputs: slices that belong
to one task's units. All tasks keep the same number of units, so every shape is the same for all of them.
"""

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import fx, nn
from torch.nn import functional

from matl_scale.errors import InputError
from matl_scale.routing.batch_norm import TaskBatchNorm2d
from matl_scale.routing.layer_norms import TaskGroupNorm, TaskLayerNorm
from matl_scale.routing.router import TaskRouter
from matl_scale.routing.shared_prefix import Source
from matl_scale.routing.slicing import Cut, Extremes, Fold, Slice
from matl_scale.routing.units import Channels, kept_places

NO_VALUE = ("placeholder", "output", "get_attr")
TaskNorm = TaskBatchNorm2d | TaskLayerNorm | TaskGroupNorm


@dataclass(frozen=True, kw_only=True)
class Derived:
    """The result of `derive`.

    Attributes:
        dense: `(tensors, task, slices) → features`, `tensors` being the values of `sources`.
        sources: The nodes of the trunk's graph whose values it starts from, at full width; some with a max pool.
        tables: Per table the places that each task keeps, shape `(num_tasks, num_kept)`.
        slices: How the slices are made, in order: a `Cut`, a `Fold` (two slices), `Extremes`, or the number of a table.
        features: Number of the table of the features' channels.
        num_channels: Of the features, at full width.
    """

    dense: fx.GraphModule
    sources: list[Source]
    tables: list[torch.Tensor]
    slices: list[Slice]
    features: int
    num_channels: int


class KeptNorm(nn.Module):
    """Calls a norm for the active task's channels alone."""

    def __init__(self, norm: TaskNorm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: torch.Tensor, task: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return self.norm.forward_kept(x, task, weight, bias)


class Derivation:
    """Walks a routed trunk's graph and writes the dense one. Use `derive`."""

    def __init__(self, trunk: fx.GraphModule, common: set[fx.Node], pools: dict[fx.Node, fx.Node], fold: bool) -> None:
        self.trunk, self.common, self.pools, self.fold = trunk, common, pools, fold
        self.columns = unit_columns(trunk)
        # the routers' own tables take no further memory on a CPU: with many tasks they count
        self.known = {units_of(n).tobytes(): n.meta["kept"] for n in trunk.graph.nodes if "kept" in n.meta}
        self.tables: dict[bytes, tuple[int, torch.Tensor]] = {}
        self.slices: list[Slice] = []
        self.sources: list[Source] = []
        self.modules: dict[str, nn.Module] = {}
        self.graph = fx.Graph()
        self.tensors, self.task, self.inputs = (self.graph.placeholder(name) for name in ("tensors", "task", "slices"))
        self.num_inputs = 0
        self.values: dict[fx.Node, fx.Node] = {}

    def run(self) -> Derived:
        output = next(node for node in self.trunk.graph.nodes if node.op == "output")
        features = output.args[0]
        for node in self.trunk.graph.nodes:
            if (node.op == "get_attr" and node.users) or (node.op not in NO_VALUE and node not in self.common):
                self.values[node] = self.convert(node)
        self.graph.output(self.value(features))
        self.graph.lint()
        channels: Channels = features.meta["channels"]
        return Derived(
            dense=fx.GraphModule(self.modules, self.graph, "Subnetwork"),
            sources=self.sources,
            slices=self.slices,
            # a flatten's features per channel depend on the size of the images
            features=self.table_of(units_of(features)[:: channels.pixels], "features"),
            num_channels=len(units_of(features)) // channels.pixels,
            tables=[kept for _, kept in self.tables.values()],  # the last: the entries above add to them
        )

    def convert(self, node: fx.Node) -> fx.Node:
        if node.op == "get_attr":
            return self.convert_parameter(node)
        if node in self.pools.values():
            return self.value(node.args[0])  # done before the norm
        if node.op != "call_module":
            return self.graph.node_copy(node, self.value)
        module = self.trunk.get_submodule(str(node.target))
        if isinstance(module, TaskRouter):
            return self.value(node.args[0])
        if isinstance(module, nn.Conv2d | nn.Linear):
            return self.convert_conv(node, module)
        if isinstance(module, TaskNorm):
            return self.convert_norm(node, module)
        self.modules[str(node.target)] = module
        return self.graph.node_copy(node, self.value)

    def value(self, node: Any) -> fx.Node:
        """Returns the dense graph's node for a node of the trunk; a common one is cut to the task's channels."""
        if node not in self.values:
            assert node in self.common, node
            value = self.next_source((node, None))
            channels: Channels = node.meta["channels"]
            if channels.units is not None:
                # a copy even where the task keeps all: what follows may work in place, and other tasks come after
                places = self.next_input(self.table(node, str(node.target)))
                value = self.graph.call_function(torch.index_select, (value, channels.dim, places))
            self.values[node] = value
        return self.values[node]

    def next_source(self, source: Source) -> fx.Node:
        self.sources.append(source)
        return self.graph.call_function(operator.getitem, (self.tensors, len(self.sources) - 1))

    def convert_conv(self, node: fx.Node, module: nn.Conv2d | nn.Linear) -> fx.Node:
        check_plain(module, str(node.target))
        rows, columns = self.table(node, str(node.target)), None
        source: Channels = node.args[0].meta["channels"]  # type: ignore[union-attr]
        if source.units is not None and getattr(module, "groups", 1) == 1:
            columns = self.table(node.args[0], str(node.target))
        weight = Cut(module=module, name="weight", rows=rows, columns=columns)
        bias = None if module.bias is None else Cut(module=module, name="bias", rows=rows)
        norm = self.norm_behind(node)
        x = self.value(node.args[0])
        if norm is not None:
            self.slices.append(Fold(weight=weight, bias=bias, norm=norm, rows=rows))
            tensors = [self.take_input(), self.take_input()]
        else:
            tensors = [self.next_input(weight)] + ([] if bias is None else [self.next_input(bias)])
        if isinstance(module, nn.Linear):
            return self.graph.call_function(functional.linear, (x, *tensors))
        return self.call_conv(module, x, tensors, rows)

    def call_conv(self, module: nn.Conv2d, x: fx.Node, tensors: list[fx.Node], rows: int) -> fx.Node:
        padding = module.padding
        if module.padding_mode != "zeros":
            pads = list(module._reversed_padding_repeated_twice)
            x, padding = self.graph.call_function(functional.pad, (x, pads, module.padding_mode)), (0, 0)
        groups = 1 if module.groups == 1 else module.groups * self.kept(rows).shape[1] // module.out_channels
        options: dict[str, Any] = {
            "stride": module.stride,
            "padding": padding,
            "dilation": module.dilation,
            "groups": groups,
        }
        return self.graph.call_function(functional.conv2d, (x, *tensors), options)

    def norm_behind(self, node: fx.Node) -> TaskBatchNorm2d | None:
        """Returns the batch norm that can be folded into a node: one that alone takes a conv's output."""
        user, *others = node.users
        is_conv = node.op == "call_module" and isinstance(self.trunk.get_submodule(str(node.target)), nn.Conv2d)
        if not self.fold or not is_conv or others or user.op != "call_module" or user in self.common:
            return None
        module = self.trunk.get_submodule(str(user.target))
        return module if isinstance(module, TaskBatchNorm2d) else None

    def convert_norm(self, node: fx.Node, norm: TaskNorm) -> fx.Node:
        source: Any = node.args[0]
        if source not in self.common and self.norm_behind(source) is norm:
            return self.value(source)
        key = f"norms.{str(node.target).replace('.', '_')}"
        self.modules[key] = KeptNorm(norm)
        table = self.table(node, str(node.target))
        if node in self.pools:
            assert isinstance(norm, TaskBatchNorm2d)
            extremes = self.next_source((source, self.pools[node]))
            x = self.graph.call_function(
                torch.index_select, (extremes, 1, self.next_input(Extremes(norm=norm, rows=table)))
            )
        else:
            x = self.value(source)
        affine = [self.next_input(Cut(module=norm, name=name, rows=table)) for name in ("weight", "bias")]
        return self.graph.call_module(key, (x, self.task, *affine))

    def convert_parameter(self, node: fx.Node) -> fx.Node:
        owner, _, name = str(node.target).rpartition(".")
        channels: Channels = node.meta["channels"]
        table = None if channels.units is None else self.table(node, str(node.target))
        return self.next_input(Cut(module=self.trunk.get_submodule(owner), name=name, rows=table))

    def next_input(self, made: Cut | Extremes | int) -> fx.Node:
        self.slices.append(made)
        return self.take_input()

    def take_input(self) -> fx.Node:
        self.num_inputs += 1
        return self.graph.call_function(operator.getitem, (self.inputs, self.num_inputs - 1))

    def table(self, node: Any, module: str) -> int:
        """Returns the number of the table with the places that tasks keep of a node's channels."""
        return self.table_of(units_of(node), module)

    def table_of(self, units: np.ndarray, module: str) -> int:
        key = units.tobytes()
        if key not in self.tables:
            if key not in self.known:
                mask = torch.stack([self.columns[unit] for unit in units.tolist()], dim=1)
                self.known[key] = kept_places(mask, module)
            self.tables[key] = (len(self.tables), self.known[key])
        return self.tables[key][0]

    def kept(self, table: int) -> torch.Tensor:
        return list(self.tables.values())[table][1]


def units_of(node: fx.Node) -> Any:
    units = node.meta["channels"].units
    assert units is not None
    return units


def unit_columns(trunk: fx.GraphModule) -> dict[int, torch.Tensor]:
    """Returns the mask column of every unit, shape `(num_tasks,)`, as the trunk's routers hold it."""
    columns: dict[int, torch.Tensor] = {}
    for node in trunk.graph.nodes:
        if node.op == "call_module" and isinstance(module := trunk.get_submodule(str(node.target)), TaskRouter):
            columns.update(zip(units_of(node).tolist(), module.mask.cpu().unbind(dim=1), strict=True))
    return columns


def check_plain(module: nn.Conv2d | nn.Linear, name: str) -> None:
    """Raises `InputError` for a layer that does more than its weight and bias say."""
    plain: Callable[..., Any] = nn.Conv2d.forward if isinstance(module, nn.Conv2d) else nn.Linear.forward
    hooks = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks
    own = type(module).forward is not plain or "forward" in vars(module)
    if isinstance(module, nn.Conv2d):
        own = own or type(module)._conv_forward is not nn.Conv2d._conv_forward
    if own or hooks:
        what = "it has hooks" if hooks else f"{type(module).__name__} has a forward of its own"
        raise InputError(
            f"This backbone has no sub-networks: module `{name}`: {what}, which slices of its weight would pass by. "
            "Use `routing.execution` = masked."
        )


def derive(trunk: fx.GraphModule, *, common: set[fx.Node], pools: dict[fx.Node, fx.Node], fold: bool) -> Derived:
    """Derives the dense network.

    Args:
        trunk: From `route()`.
        common: Nodes of its graph that are computed elsewhere, at full width: at least the images.
        pools: Norms of common values whose max pool is done before them, with the pool.
        fold: Whether to fold batch norms into convs, for evaluation.

    Raises:
        InputError: A layer cannot be sliced; names it.
    """
    if any(node.op == "call_module" and "channels" not in node.meta for node in trunk.graph.nodes):
        raise InputError("The trunk should come from `route()` in this process, or from a copy of what it returned.")
    return Derivation(trunk, common, pools, fold).run()
