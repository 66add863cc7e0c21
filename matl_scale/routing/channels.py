"""Which channels of a traced CNN belong together, found by following every tensor's channels through the graph.

Each conv output starts with units of its own. An addition, a product or a depthwise conv ties the units of two tensors
together, because a sub-network is closed only if both are active or both are not. Tied convs form one *stream*, which has
one routing mask. A linear layer over the channels of every pixel counts as a conv. Operations that cannot be followed are
refused, and the message names the module.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import fx, nn
from torch.nn import functional

from matl_scale.errors import InputError
from matl_scale.routing import operations
from matl_scale.routing.tracing import module_around
from matl_scale.routing.units import ChannelMap, Channels, Stream, Unions
from matl_scale.vision import LayerNorm2d


class ChannelTracer:
    """Walks a traced CNN once and follows the channels. Use `trace_channels`."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        self.root = graph_module
        self.modules = dict(graph_module.named_modules())
        self.unions = Unions()
        self.channels: dict[fx.Node, Channels] = {}
        self.convs: list[tuple[str, np.ndarray]] = []
        # parameters, also reshaped, with the dimension, from the last, of their numbers
        self.scales: dict[fx.Node, int] = {}
        self.ungated: set[fx.Node] = set()  # sigmoid outputs, where inactive units are 0.5 instead of 0
        self.routed: list[fx.Node] = []
        self.head_dims: dict[str, int] = {}  # of layers whose units are attention heads
        self.visitors: dict[Any, Callable[[fx.Node], None]] = {  # by function, or by the name of a tensor's method
            **dict.fromkeys((*operations.PRODUCTS, *operations.SUMS), self.tie_operands),
            **dict.fromkeys(operations.GATE_FUNCTIONS, self.visit_gate),
            **dict.fromkeys(operations.POOL_FUNCTIONS, self.visit_pool),
            **dict.fromkeys(operations.ELEMENTWISE_FUNCTIONS, self.pass_on),
            **dict.fromkeys((torch.flatten, "flatten"), self.visit_flatten),
            **dict.fromkeys((torch.permute, "permute"), self.visit_permute),
            functional.dropout: self.visit_dropout,
            **dict.fromkeys(operations.RESHAPES, self.visit_reshape),
            torch.cat: self.visit_cat,
            **dict.fromkeys(("mean", "amax"), self.visit_mean),
        }

    def run(self) -> ChannelMap:
        for node in self.root.graph.nodes:
            self.visit(node)
        roots = self.unions.roots()
        channels = {
            node: found if found.units is None else replace(found, units=roots[found.units])
            for node, found in self.channels.items()
        }
        convs = [name for name, _ in self.convs]
        return ChannelMap(channels=channels, convs=convs, routed=self.routed, streams=self.collect_streams(roots))

    def collect_streams(self, roots: np.ndarray) -> list[Stream]:
        streams: list[Stream] = []
        stream_of: dict[int, Stream] = {}  # by unit
        for name, units in self.convs:
            own = dict.fromkeys(roots[units].tolist())
            for stream in {id(stream_of[unit]): stream_of[unit] for unit in own if unit in stream_of}.values():
                stream.convs.append(name)
            new = [unit for unit in own if unit not in stream_of]
            if new:
                streams.append(Stream(convs=[name], units=np.array(new), head_dim=self.head_dims.get(name, 0)))
                stream_of |= dict.fromkeys(new, streams[-1])
        return streams

    def visit(self, node: fx.Node) -> None:
        if not all(isinstance(value, operations.ARGUMENT_KINDS) for value in node.kwargs.values()):
            raise self.refusal(node, "tensors given by name cannot be followed; give them by position")
        if node.op == "placeholder":
            self.channels[node] = Channels(units=None)
        elif node.op == "get_attr":
            self.visit_parameter(node)
        elif node.op == "output":
            self.visit_output(node)
        elif node.op == "call_module":
            self.visit_module(node, self.modules[str(node.target)])
        elif node.op in ("call_function", "call_method") and node.target in self.visitors:
            self.visitors[node.target](node)
        elif node.op == "call_function" and node.target is not getattr:
            name = getattr(node.target, "__name__", node.target)
            raise self.refusal(node, f"the function {name} cannot be followed")
        else:
            what = f"reading .{node.args[1]} of a tensor" if node.target is getattr else f"the method {node.target}"
            raise self.refusal(node, f"{what} cannot be followed")

    def visit_module(self, node: fx.Node, module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d):
            self.visit_conv(node, module)
        elif isinstance(module, nn.Linear):
            self.visit_linear(node, module)
        elif isinstance(module, operations.NORM_MODULES):
            self.visit_norm(node, module)
        elif isinstance(module, operations.GATE_MODULES):
            self.visit_gate(node)
        elif isinstance(module, operations.ELEMENTWISE_MODULES):
            self.pass_on(node)
        elif isinstance(module, operations.POOL_MODULES):
            self.visit_pool(node)
        elif isinstance(module, nn.Flatten):
            self.visit_flatten(node)
        elif isinstance(module, nn.Unflatten):
            self.visit_unflatten(node, module)
        else:
            raise self.refusal(node, f"a {type(module).__name__} mixes or hides channels")

    def visit_gate(self, node: fx.Node) -> None:
        self.pass_on(node)
        self.ungated.add(node)

    def visit_dropout(self, node: fx.Node) -> None:
        share = node.kwargs.get("p", (*node.args, 0.5)[1])
        if share != 0 and node.kwargs.get("training", (*node.args, 0.5, True)[2]) is not False:
            raise self.refusal(
                node, "a function with training=True drops in evaluation too; use the module (nn.Dropout)"
            )
        self.pass_on(node)

    def visit_conv(self, node: fx.Node, conv: nn.Conv2d) -> None:
        source = self.input_channels(node)
        if source.dim != 1:
            raise self.refusal(node, "a conv needs the channels in dimension 1")
        outputs = self.unions.new(conv.out_channels)
        if conv.groups > 1:
            if source.units is None:
                raise self.refusal(node, "a grouped conv on the image is not supported")
            self.tie_groups(source.units, outputs, conv.groups)
        self.add_conv(node, outputs, dim=1)

    def visit_linear(self, node: fx.Node, linear: nn.Linear) -> None:
        source = self.input_channels(node)
        if source.units is None or source.dim not in (-1, len(shape_of(node.args[0])) - 1):
            raise self.refusal(node, "a linear layer needs the channels in the last dimension")
        self.add_conv(node, self.unions.new(linear.out_features), dim=source.dim)

    def add_conv(self, node: fx.Node, outputs: np.ndarray, dim: int) -> None:
        self.convs.append((str(node.target), outputs))
        self.channels[node] = Channels(units=outputs, dim=dim)
        if not self.only_feeds_norm(node):
            self.routed.append(node)

    def tie_groups(self, source: np.ndarray, outputs: np.ndarray, groups: int) -> None:
        """Ties all channels of a group: it is active as a whole or not at all. A depthwise conv has groups of one channel."""
        members = np.concatenate([source.reshape(groups, -1), outputs.reshape(groups, -1)], axis=1)
        self.unions.tie(members[:, :-1].ravel(), members[:, 1:].ravel())

    def visit_norm(self, node: fx.Node, norm: nn.Module) -> None:
        source = self.input_channels(node)
        if source.units is None:
            raise self.refusal(node, "a norm on the image is not supported")
        if isinstance(norm, nn.BatchNorm2d) and not (
            norm.track_running_stats and norm.momentum is not None and norm.affine
        ):
            raise self.refusal(node, "a batch norm should be affine and track running statistics with a momentum")
        if type(norm) not in (nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm, LayerNorm2d):
            raise self.refusal(node, f"{type(norm).__name__} may do more than the norm that replaces it")
        if isinstance(norm, nn.GroupNorm) and not (norm.affine and source.dim == 1 and len(shape_of(node)) == 4):
            raise self.refusal(node, "a group norm should be affine, over images")
        if isinstance(norm, nn.LayerNorm):
            self.check_layer_norm(node, norm, source)
        self.pass_on(node)
        self.routed.append(node)

    def check_layer_norm(self, node: fx.Node, norm: nn.LayerNorm, source: Channels) -> None:
        assert source.units is not None
        if norm.bias is None or norm.weight is None:
            raise self.refusal(node, "a layer norm should have weight and bias")
        if norm.normalized_shape != (len(source.units),) or (source.dim == 1) != isinstance(norm, LayerNorm2d):
            raise self.refusal(node, "a layer norm should be over the channels alone")

    def visit_pool(self, node: fx.Node) -> None:
        if self.input_channels(node).dim != 1:
            raise self.refusal(node, "a pool needs the channels in dimension 1")
        self.pass_on(node)

    def visit_parameter(self, node: fx.Node) -> None:
        """Accepts numbers per channel in the first dimension, shape `(num_channels,)` or `(num_channels, 1, 1)`, which have no
        units of their own."""
        owner, _, name = str(node.target).rpartition(".")
        parameter = getattr(self.root.get_submodule(owner), name)
        if not isinstance(parameter, nn.Parameter):
            raise self.refusal(node, f"the tensor {node.target} is no parameter and cannot be followed")
        if parameter.shape[1:] not in (torch.Size([]), torch.Size([1, 1])) or parameter.ndim == 0:
            raise self.refusal(node, f"a parameter of shape {tuple(parameter.shape)} cannot be followed")
        self.scales[node] = -parameter.ndim

    def visit_reshape(self, node: fx.Node) -> None:
        """Accepts numbers per channel that are reshaped to be broadcast over the pixels, from `(num_channels,)` to
        `(1, num_channels, 1, 1)`."""
        given: Any = node.args[1]
        shape = list(node.args[1:]) if isinstance(given, int) else list(given)
        if node.args[0] not in self.scales or sorted(shape) != [-1, *[1] * (len(shape) - 1)]:  # type: ignore[type-var]
            raise self.refusal(node, "only numbers per channel can be reshaped")
        self.scales[node] = shape.index(-1) - len(shape)

    def visit_permute(self, node: fx.Node) -> None:
        source = self.input_channels(node)
        last = node.args[1:] if isinstance(node.args[1], int) else node.args[1]
        dim = {(1, (0, 2, 3, 1)): -1, (-1, (0, 3, 1, 2)): 1}.get((source.dim, tuple(last)))  # type: ignore[arg-type]
        if source.units is None or dim is None:
            raise self.refusal(node, "only a permutation of channels to the last dimension or back can be followed")
        self.channels[node] = Channels(units=source.units, dim=dim)

    def visit_flatten(self, node: fx.Node) -> None:
        """Repeats each unit: a channel becomes as many neighbouring features as it has pixels."""
        source = self.input_channels(node)
        shape = shape_of(node)
        if len(shape) != 2 or source.units is None or source.dim != 1 or shape[1] % len(source.units):
            raise self.refusal(node, "only a flatten of channels and pixels to features can be followed")
        pixels = shape[1] // len(source.units)
        self.channels[node] = Channels(units=np.repeat(source.units, pixels), pixels=pixels)

    def visit_unflatten(self, node: fx.Node, module: nn.Unflatten) -> None:
        source = self.input_channels(node)
        if (module.dim, module.unflattened_size) != (1, (-1, 1, 1)) or source.pixels != 1:
            raise self.refusal(node, "only one pixel per image can be made of features")
        self.channels[node] = Channels(units=source.units)

    def visit_mean(self, node: fx.Node) -> None:
        dims = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
        if dims not in ([2, 3], (2, 3), [-2, -1], (-2, -1)) or self.input_channels(node).dim != 1:
            raise self.refusal(node, f"only a {node.target} over pixels can be followed")
        self.pass_on(node)

    def visit_cat(self, node: fx.Node) -> None:
        inputs = [self.channels[source] for source in node.args[0]]  # type: ignore[union-attr, index]
        dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
        if dim != 1 or any(found.units is None or found.dim != 1 for found in inputs):
            raise self.refusal(node, "only a concatenation of channels can be followed")
        if self.ungated & set(node.all_input_nodes):
            raise self.refusal(node, "a sigmoid's output can only scale routed channels")
        self.channels[node] = Channels(
            units=np.concatenate([found.units for found in inputs if found.units is not None])
        )

    def visit_output(self, node: fx.Node) -> None:
        features = node.args[0]
        if not isinstance(features, fx.Node) or self.channels[features].units is None or len(shape_of(features)) != 2:
            raise InputError("This backbone cannot be routed: it should return one tensor, (batch, num_features).")
        self.pass_on(node)

    def tie_operands(self, node: fx.Node) -> None:
        operands = [arg for arg in node.args if isinstance(arg, fx.Node)]
        tensors = [operand for operand in operands if operand not in self.scales]
        found = [self.channels[operand] for operand in tensors]
        if not found or found[0].units is None:
            raise self.refusal(node, "only arithmetic on channels can be followed")
        first, units = found[0], found[0].units
        for other in found[1:]:
            if other.units is None or other.dim != first.dim or len(other.units) != len(units):
                raise self.refusal(node, "operands with different channels cannot be tied")
            self.unions.tie(units, other.units)
        for scale in [operand for operand in operands if operand in self.scales]:
            self.check_scale(node, scale, first)
        if node.target not in operations.PRODUCTS and len(operands) < 2 and 0 not in node.args:
            raise self.refusal(node, "a constant added to channels would fill the inactive ones")
        gates = [operand for operand in tensors if operand in self.ungated]
        if len(gates) > (1 if node.target in operations.PRODUCTS and len(tensors) > 1 else 0):
            raise self.refusal(node, "a sigmoid's output can only scale routed channels")
        self.channels[node] = first

    def check_scale(self, node: fx.Node, scale: fx.Node, channels: Channels) -> None:
        """Checks that a parameter only scales channels: one that is added would fill the inactive ones."""
        assert channels.units is not None
        parameter = scale if scale.op == "get_attr" else scale.all_input_nodes[0]
        size, rank = shape_of(parameter)[0], len(shape_of(node))
        dim = channels.dim if channels.dim < 0 else channels.dim - rank
        fits = node.target in operations.PRODUCTS and size in (1, len(channels.units)) and self.scales[scale] == dim
        if not fits or parameter in self.channels:
            raise self.refusal(node, f"the parameter {parameter.target} can only scale channels, once")
        own = Channels(units=channels.units if size > 1 else None, dim=0)
        self.channels[parameter] = own
        self.channels[scale] = replace(own, dim=channels.dim) if scale is not parameter else own

    def pass_on(self, node: fx.Node) -> None:
        self.channels[node] = self.input_channels(node)

    def input_channels(self, node: fx.Node) -> Channels:
        source = node.args[0]
        if not isinstance(source, fx.Node) or source not in self.channels:
            raise self.refusal(node, "its input cannot be followed")
        if source in self.ungated:
            raise self.refusal(node, "its input is a sigmoid's output, where inactive units are not zero")
        return self.channels[source]

    def only_feeds_norm(self, node: fx.Node) -> bool:
        users = list(node.users)
        return (
            len(users) == 1
            and users[0].op == "call_module"
            and isinstance(self.modules[str(users[0].target)], operations.NORM_MODULES)
        )

    def refusal(self, node: fx.Node, reason: str) -> InputError:
        return InputError(f"This backbone cannot be routed: module `{module_around(node)}`: {reason}.")


def shape_of(node: Any) -> torch.Size:
    shape: torch.Size = node.meta["tensor_meta"].shape
    return shape
