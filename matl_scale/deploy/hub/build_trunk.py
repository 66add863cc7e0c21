"""A routed trunk from its description (`describe_trunk`), with torch alone. Only what `vocabulary` lists is built."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from matl_scale.deploy.hub.vocabulary import FUNCTIONS, INPUTS, METHODS, MODULE_NAME, find_layer
from matl_scale.errors import InputError
from matl_scale.routing.affine import give_own_affine
from matl_scale.routing.attention import KeysWithoutBias
from matl_scale.routing.batch_norm import RouteBatchNorm2d
from matl_scale.routing.layer_norms import RouteGroupNorm, RouteLayerNorm
from matl_scale.routing.router import TaskRouter
from matl_scale.routing.units import Channels, build_index_table

ROUTE_NORMS = ("RouteBatchNorm2d", "RouteLayerNorm", "RouteGroupNorm")
REMEDY = "Install the version of matl_scale that wrote it, or a newer one."


class TrunkBuilder:
    """Builds the trunk node by node. Use `build_trunk`."""

    def __init__(
        self, layers: Mapping[str, Mapping[str, Any]], units: Sequence[np.ndarray], state: Mapping[str, torch.Tensor]
    ) -> None:
        self.described, self.units, self.state = layers, units, state
        self.graph, self.nodes = fx.Graph(), list[fx.Node]()
        self.layers: dict[str, Any] = {}
        self.masks: dict[int, torch.Tensor] = {}  # by the index of the units that their columns are
        self.tables: dict[int, torch.Tensor] = {}  # of the active units, likewise

    def read_masks(self, nodes: Sequence[Mapping[str, Any]]) -> None:
        """Finds the mask of every routed value; those of one stream share it."""
        for entry in nodes:
            target = entry["target"]
            if entry["op"] == "call_module" and self.described[target]["kind"] == "TaskRouter":
                index = entry["channels"]["units"]
                if index not in self.masks:
                    self.masks[index] = self.state[f"{target}.mask"]
                    self.tables[index] = build_index_table(self.masks[index], target)

    def add(self, entry: Mapping[str, Any]) -> None:
        op, target, channels = entry["op"], entry["target"], entry.get("channels")
        index = None if channels is None else channels["units"]
        node = self.add_input() if op == "placeholder" else self.add_operation(op, target, entry)
        if channels is not None:
            units = None if index is None else self.units[index]
            node.meta["channels"] = Channels(units=units, dim=channels["dim"], pixels=channels["pixels"])
        if op in ("call_module", "get_attr"):
            self.layers[target] = self.build_layer(target, index)
            if isinstance(self.layers[target], TaskRouter):
                node.meta["active"] = self.tables[index].clone()  # type: ignore[index] # buffers may change in place
        self.nodes.append(node)

    def add_input(self) -> fx.Node:
        name = INPUTS[len(self.nodes)]
        return self.graph.placeholder(name, **({"default_value": None} if name == "affine" else {}))

    def add_operation(self, op: str, target: str, entry: Mapping[str, Any]) -> fx.Node:
        args, kwargs = self.decode(entry["args"]), self.decode(entry["kwargs"])
        if not all(key.isidentifier() for key in kwargs):
            raise unknown("the arguments", list(kwargs))
        return self.graph.create_node(op, self.find_target(op, target), args, kwargs)

    def find_target(self, op: str, target: str) -> Any:
        if op == "call_function" and target in FUNCTIONS:
            return FUNCTIONS[target]
        if op == "call_method" and target in METHODS:
            return target
        if op in ("call_module", "get_attr") and MODULE_NAME.fullmatch(target) and target in self.described:
            return target
        if op == "output":
            return "output"
        raise unknown(f"the operation {op}", target)

    def decode(self, value: Any) -> Any:
        """Returns an argument of a node from JSON."""
        if isinstance(value, dict):
            if value.keys() == {"node"}:
                return self.nodes[value["node"]]
            if value.keys() == {"slice"}:
                return slice(*(self.decode(each) for each in value["slice"]))
            if value.keys() == {"tuple"}:
                return tuple(self.decode(each) for each in value["tuple"])
            return {key: self.decode(each) for key, each in value.items()}
        return [self.decode(each) for each in value] if isinstance(value, list) else value

    def build_layer(self, name: str, index: int | None) -> Any:
        """Builds a layer whose output has the units of an index."""
        described = self.described[name]
        kind, args = described["kind"], [as_tuple(value) for value in described["args"]]
        kwargs = {key: as_tuple(value) for key, value in described["kwargs"].items()}
        if kind == "Parameter":
            return nn.Parameter(torch.zeros(*args))
        if kind == "Buffer":
            return torch.zeros(*args, dtype=torch.long if kwargs["is_index"] else None)
        if kind == "KeysWithoutBias":
            return KeysWithoutBias.of(nn.Linear(*args, **kwargs))
        if kind == "TaskRouter":
            assert index is not None
            return TaskRouter(self.masks[index], **kwargs)
        if kind in ROUTE_NORMS:
            assert index is not None
            return self.build_norm(kind, index, **kwargs)
        if kind == "SamePadding":
            kwargs["value"] = float(kwargs["value"])  # as text if it is infinite
        layer = find_layer(kind)
        if layer is None:
            raise unknown("the layer", kind)
        return layer(*args, **kwargs)

    def build_norm(
        self, kind: str, index: int, *, num_channels: int, eps: float, affine_index: int | None, **kwargs: Any
    ) -> nn.Module:
        norm: nn.Module
        if kind == "RouteBatchNorm2d":
            # the norm of a layer that is not routed has one row of statistics, for all its channels
            table = self.tables.get(index, torch.arange(num_channels)[None])
            plain = nn.BatchNorm2d(num_channels, eps, kwargs["momentum"])
            norm = RouteBatchNorm2d(plain, table, kwargs["statistics"])
        elif kind == "RouteLayerNorm":
            norm = RouteLayerNorm(nn.LayerNorm(num_channels, eps), self.masks[index], kwargs["channel_dim"])
        else:
            plain_group = nn.GroupNorm(kwargs["num_groups"], num_channels, eps)
            norm = RouteGroupNorm(plain_group, self.masks[index], self.tables[index])
        if affine_index is not None:
            give_own_affine(norm, affine_index)
        return norm


def build_trunk(
    nodes: Sequence[Mapping[str, Any]],
    layers: Mapping[str, Mapping[str, Any]],
    units: Sequence[np.ndarray],
    state: Mapping[str, torch.Tensor],
) -> fx.GraphModule:
    """Builds a routed trunk whose weights are yet to be loaded. The masks are taken from its `state`.

    Raises:
        InputError: The description holds an operation or a layer that is not known here.
    """
    builder = TrunkBuilder(layers, units, state)
    builder.read_masks(nodes)
    for entry in nodes:
        builder.add(entry)
    builder.graph.lint()
    return fx.GraphModule(builder.layers, builder.graph, "Trunk")


def as_tuple(value: Any) -> Any:
    """Returns a JSON list as the tuple that it was."""
    return tuple(value) if isinstance(value, list) else value


def unknown(what: str, name: object) -> InputError:
    return InputError(f"The network's graph has {what} {name!r}, which this version does not know. {REMEDY}")
