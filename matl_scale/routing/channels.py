"""Which channels of a traced CNN belong together, found by following every tensor's channels through the graph.

Each conv output starts with units of its own. An addition, a product or a depthwise conv ties units of two tensors
together, because a sub-network is closed only if both are kept or both are not. Tied convs form one *stream*, which has
one routing mask. What cannot be followed is refused, naming the module.
"""

import operator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import fx, nn
from torch.nn import functional

from matl_scale.errors import InputError
from matl_scale.vision import StochasticDepth

ELEMENTWISE_MODULES = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Hardswish, nn.Tanh, nn.Identity, nn.Dropout,
    nn.Dropout2d, StochasticDepth,
)  # fmt: skip
GATE_MODULES = (nn.Sigmoid, nn.Hardsigmoid)
POOL_MODULES = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
ELEMENTWISE_FUNCTIONS = (
    functional.relu, functional.relu6, functional.silu, functional.gelu, functional.hardswish, functional.dropout,
    functional.adaptive_avg_pool2d, functional.avg_pool2d, functional.max_pool2d, torch.relu, torch.tanh,
)  # fmt: skip
GATE_FUNCTIONS = (torch.sigmoid, functional.sigmoid, functional.hardsigmoid)
BINARY_FUNCTIONS = (operator.add, operator.iadd, operator.mul, operator.imul, torch.add, torch.mul)
NORM_MODULES = (nn.BatchNorm2d,)


class Unions:
    """Disjoint sets of units, as a forest."""

    def __init__(self) -> None:
        self._parent: list[int] = []

    def new(self, count: int) -> np.ndarray:
        first = len(self._parent)
        self._parent += range(first, first + count)
        return np.arange(first, first + count)

    def find(self, unit: int) -> int:
        while self._parent[unit] != unit:
            self._parent[unit] = unit = self._parent[self._parent[unit]]
        return unit

    def tie(self, left: np.ndarray, right: np.ndarray) -> None:
        for a, b in zip(left.tolist(), right.tolist(), strict=True):
            a, b = self.find(a), self.find(b)
            self._parent[max(a, b)] = min(a, b)  # the older unit stays, so that streams are named for their first conv

    def roots(self, units: np.ndarray) -> np.ndarray:
        return np.array([self.find(unit) for unit in units.tolist()])


@dataclass(frozen=True, kw_only=True)
class Stream:
    """Convs that share one mask: its name (the first conv's) and its units, as roots of the unions."""

    name: str
    units: np.ndarray


@dataclass(kw_only=True)
class ChannelMap:
    """The result: where routers go, and the units behind every channel.

    Attributes:
        routed: For each node that a router follows, the units of its channels, shape `(num_channels,)`.
        streams: Disjoint sets of units; together they cover all units of `routed`.
        features: The units behind the output's features, shape `(num_features,)`.
    """

    routed: dict[fx.Node, np.ndarray] = field(default_factory=dict)
    streams: list[Stream] = field(default_factory=list)
    features: np.ndarray = field(default_factory=lambda: np.array([], dtype=int))


class ChannelTracer:
    """Walks a traced CNN once and follows the channels. Use `trace_channels`."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        self.modules = dict(graph_module.named_modules())
        self.graph = graph_module.graph
        self.unions = Unions()
        self.units: dict[fx.Node, np.ndarray | None] = {}  # None: the input image, whose channels are not units
        self.convs: list[tuple[str, np.ndarray]] = []
        self.ungated: set[fx.Node] = set()  # sigmoid outputs: units that are switched off come out as 0.5 there
        self.result = ChannelMap()

    def run(self) -> ChannelMap:
        for node in self.graph.nodes:
            self.visit(node)
        result = self.result
        result.routed = {node: self.unions.roots(units) for node, units in result.routed.items()}
        result.features = self.unions.roots(result.features)
        result.streams = self.collect_streams()
        return result

    def collect_streams(self) -> list[Stream]:
        streams: list[Stream] = []
        seen: set[int] = set()
        for name, units in self.convs:
            new = [unit for unit in dict.fromkeys(self.unions.roots(units).tolist()) if unit not in seen]
            if new:
                seen.update(new)
                streams.append(Stream(name=name, units=np.array(new)))
        return streams

    def visit(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            self.units[node] = None
        elif node.op == "output":
            self.visit_output(node)
        elif node.op == "call_module":
            self.visit_module(node, self.modules[str(node.target)])
        elif node.op == "call_function" and node.target is not getattr:
            self.visit_function(node, node.target)
        elif node.op == "call_method" and node.target in ("add", "add_", "mul", "mul_"):
            self.tie_operands(node)
        elif node.op == "call_method" and node.target in ("relu", "contiguous", "clone"):
            self.pass_on(node)
        elif node.op == "call_method" and node.target == "flatten":
            self.visit_flatten(node)
        elif node.op == "call_method" and node.target == "mean":
            self.visit_mean(node)
        else:
            raise self.refusal(node, f"the operation {node.op} {node.target} cannot be followed")

    def visit_module(self, node: fx.Node, module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d):
            self.visit_conv(node, module)
        elif isinstance(module, NORM_MODULES):
            self.visit_norm(node, module)
        elif isinstance(module, GATE_MODULES):
            self.pass_on(node)
            self.ungated.add(node)
        elif isinstance(module, ELEMENTWISE_MODULES + POOL_MODULES):
            self.pass_on(node)
        elif isinstance(module, nn.Flatten):
            self.visit_flatten(node)
        else:
            raise self.refusal(node, f"a {type(module).__name__} mixes or hides channels")

    def visit_function(self, node: fx.Node, function: Any) -> None:
        if function in BINARY_FUNCTIONS:
            self.tie_operands(node)
        elif function in GATE_FUNCTIONS:
            self.pass_on(node)
            self.ungated.add(node)
        elif function is torch.flatten:
            self.visit_flatten(node)
        elif function is torch.cat:
            self.visit_cat(node)
        elif function in ELEMENTWISE_FUNCTIONS:
            if node.kwargs.get("training") is True:
                raise self.refusal(
                    node, "a function with training=True stays so in evaluation; use the module (nn.Dropout)"
                )
            self.pass_on(node)
        else:
            raise self.refusal(node, f"the function {getattr(function, '__name__', function)} cannot be followed")

    def visit_conv(self, node: fx.Node, conv: nn.Conv2d) -> None:
        source = self.input_units(node)
        outputs = self.unions.new(conv.out_channels)
        if conv.groups > 1:
            if source is None:
                raise self.refusal(node, "a grouped conv on the image is not supported")
            self.tie_groups(source, outputs, conv.groups)
        self.convs.append((str(node.target), outputs))
        self.units[node] = outputs
        if not self.only_feeds_norm(node):
            self.result.routed[node] = outputs

    def tie_groups(self, source: np.ndarray, outputs: np.ndarray, groups: int) -> None:
        """A group is kept whole or not at all; a depthwise conv has groups of one channel."""
        for ins, outs in zip(np.split(source, groups), np.split(outputs, groups), strict=True):
            members = np.concatenate([ins, outs])
            self.unions.tie(members[:-1], members[1:])

    def visit_norm(self, node: fx.Node, norm: nn.Module) -> None:
        assert isinstance(norm, nn.BatchNorm2d)
        if not norm.track_running_stats or norm.momentum is None or not norm.affine:
            raise self.refusal(node, "a batch norm should be affine and track running statistics with a momentum")
        self.pass_on(node)
        units = self.units[node]
        if units is None:
            raise self.refusal(node, "a norm on the image is not supported")
        self.result.routed[node] = units

    def visit_flatten(self, node: fx.Node) -> None:
        """Each channel becomes as many features as it has pixels, side by side."""
        units = self.input_units(node)
        shape = node.meta["tensor_meta"].shape
        if len(shape) != 2 or units is None or shape[1] % len(units):
            raise self.refusal(node, "only a flatten of channels and pixels to features can be followed")
        self.units[node] = np.repeat(units, shape[1] // len(units))

    def visit_mean(self, node: fx.Node) -> None:
        dims = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
        if dims not in ([2, 3], (2, 3), [-2, -1], (-2, -1)):
            raise self.refusal(node, "only a mean over pixels can be followed")
        self.pass_on(node)

    def visit_cat(self, node: fx.Node) -> None:
        parts = [self.units[part] for part in node.args[0]]  # type: ignore[union-attr, index]
        dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
        if dim != 1 or any(part is None for part in parts):
            raise self.refusal(node, "only a concatenation of channels can be followed")
        self.units[node] = np.concatenate([part for part in parts if part is not None])

    def visit_output(self, node: fx.Node) -> None:
        features = node.args[0]
        if not isinstance(features, fx.Node) or self.units.get(features) is None:
            raise InputError("The backbone should return one feature tensor.")
        self.check_gated(node)
        units = self.units[features]
        assert units is not None
        self.result.features = units

    def tie_operands(self, node: fx.Node) -> None:
        operands = [arg for arg in node.args if isinstance(arg, fx.Node)]
        units = [self.units[operand] for operand in operands]
        first = units[0]
        if first is None or any(other is None or len(other) != len(first) for other in units):
            raise self.refusal(node, "operands with different channels cannot be tied")
        for other in units[1:]:
            assert other is not None
            self.unions.tie(first, other)
        is_product = node.target in (operator.mul, operator.imul, torch.mul, "mul", "mul_")
        if len([operand for operand in operands if operand in self.ungated]) > (
            1 if is_product and len(operands) > 1 else 0
        ):
            raise self.refusal(node, "a sigmoid's output can only scale routed channels")
        self.units[node] = first

    def pass_on(self, node: fx.Node) -> None:
        self.units[node] = self.input_units(node)

    def input_units(self, node: fx.Node) -> np.ndarray | None:
        self.check_gated(node)
        return self.units[node.args[0]]  # type: ignore[index]

    def check_gated(self, node: fx.Node) -> None:
        if node.args[0] in self.ungated:
            raise self.refusal(node, "it takes a sigmoid's output, where units that are switched off are not zero")

    def only_feeds_norm(self, node: fx.Node) -> bool:
        users = list(node.users)
        return (
            len(users) == 1
            and users[0].op == "call_module"
            and isinstance(self.modules[str(users[0].target)], NORM_MODULES)
        )

    def refusal(self, node: fx.Node, reason: str) -> InputError:
        stack = node.meta.get("nn_module_stack") or {}
        inside = str(node.target) if node.op == "call_module" else next(reversed(list(stack)), "") or node.name
        return InputError(f"This backbone cannot be routed: module `{inside}`: {reason}.")


def trace_channels(graph_module: fx.GraphModule) -> ChannelMap:
    """Follows the channels of a traced CNN whose nodes carry shapes (`torch.fx.passes.shape_prop`).

    Raises:
        InputError: An operation cannot be followed; the message names its module.
    """
    return ChannelTracer(graph_module).run()
