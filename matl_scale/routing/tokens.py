"""Which channels of a traced vision transformer are units: the hidden units of MLPs, and attention heads.

The residual stream has no units: what reads and writes it works on all of its channels for every route, so that any operation
may be part of it, and its layer norms stay as they are. A linear layer has units if all that its output meets before the next
linear layer treats each channel for itself; the layer in front of a `HeadAttention` has the heads. This is an extension of ours:
the paper routes CNNs.
"""

from collections.abc import Iterator

import numpy as np
from torch import fx, nn
from torch.nn import functional

from matl_scale.errors import InputError
from matl_scale.routing import operations
from matl_scale.routing.attention import QKV, HeadAttention
from matl_scale.routing.channels import ChannelTracer, shape_of
from matl_scale.routing.tracing import find_image_size
from matl_scale.routing.units import ChannelMap, Channels

CHANNELWISE_MODULES = (*operations.ELEMENTWISE_MODULES, *operations.GATE_MODULES, nn.LayerNorm)
CHANNELWISE = (
    *operations.ELEMENTWISE_FUNCTIONS, *operations.GATE_FUNCTIONS, *operations.PRODUCTS, functional.dropout,
)  # fmt: skip


class TokenTracer(ChannelTracer):
    """Walks a traced transformer once and finds units. Use `trace_channels`."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        super().__init__(graph_module)
        self.of_images: set[fx.Node] = set()  # what depends on the images
        self.heads_by_attention: dict[fx.Node, np.ndarray] = {}  # the heads that each `HeadAttention` computes

    def visit(self, node: fx.Node) -> None:
        if node.op == "placeholder" or self.of_images.intersection(node.all_input_nodes):
            self.of_images.add(node)
        module = self.modules[str(node.target)] if node.op == "call_module" else None
        if node.op == "output":
            self.visit_output(node)
        elif isinstance(module, HeadAttention):
            self.visit_heads(node, module)
        elif isinstance(module, nn.Linear):
            self.visit_linear(node, module)
        elif self.is_behind_tokens(node, module) or any(self.has_units(source) for source in node.all_input_nodes):
            super().visit(node)
        else:
            self.visit_whole(node, module)

    def is_behind_tokens(self, node: fx.Node, module: nn.Module | None) -> bool:
        """Returns whether a module makes a pixel of an image's features, or is a conv on that pixel: there, a CNN begins."""
        before = node.args[0] if node.op == "call_module" and isinstance(node.args[0], fx.Node) else node
        is_pixel = before.op == "call_module" and isinstance(self.modules[str(before.target)], nn.Unflatten)
        return isinstance(module, nn.Unflatten) or (is_pixel and isinstance(module, nn.Conv2d))

    def has_units(self, node: fx.Node) -> bool:
        return node in self.channels and self.channels[node].units is not None

    def visit_whole(self, node: fx.Node, module: nn.Module | None) -> None:
        """Passes what has no units; refuses what would go wrong without routing already."""
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise self.refusal(node, "batch norms cannot be followed in a transformer")
        if node.target is functional.dropout:
            self.visit_dropout(node)
        elif node.kwargs.get("dropout_p", 0.0) != 0.0:
            raise self.refusal(node, "attention with dropout_p drops in evaluation too")
        if node.op == "get_attr" and len(shape_of(node)) == 1:
            self.scales[node] = -1
        else:
            self.channels[node] = Channels(units=None)

    def visit_linear(self, node: fx.Node, linear: nn.Linear) -> None:
        source = self.input_channels(node)
        if source.units is not None and source.dim != -1:
            raise self.refusal(node, "a linear layer needs the channels in the last dimension")
        attention = self.attention_behind(node)
        if attention is not None:
            self.visit_projection(node, linear, attention)
        elif node in self.of_images and self.is_hidden(node):
            self.add_conv(node, self.unions.new(linear.out_features), dim=-1)
        else:
            self.channels[node] = Channels(units=None)

    def attention_behind(self, node: fx.Node) -> fx.Node | None:
        """Returns the attention of which a linear layer makes an input for each head; None if there is none."""
        user, *others = node.users
        is_alone = not others and user.op == "call_module"
        return user if is_alone and isinstance(self.modules[str(user.target)], HeadAttention) else None

    def visit_projection(self, node: fx.Node, linear: nn.Linear, attention: fx.Node) -> None:
        """Gives a linear layer the units of the heads: it makes their queries, keys and values, or a number for each."""
        head_dim = int(self.modules[str(attention.target)].head_dim)
        heads = self.heads_of(attention, shape_of(attention)[-1] // head_dim)
        if attention.args[0] is node:
            name = str(node.target)
            self.convs.append((name, heads))
            self.head_dims[name] = head_dim
            self.channels[node] = Channels(units=np.tile(np.repeat(heads, head_dim), QKV), dim=-1)
        else:
            assert linear.out_features == len(heads)
            self.channels[node] = Channels(units=heads, dim=-1)

    def heads_of(self, attention: fx.Node, num_heads: int) -> np.ndarray:
        if attention not in self.heads_by_attention:
            self.heads_by_attention[attention] = self.unions.new(num_heads)
        return self.heads_by_attention[attention]

    def visit_heads(self, node: fx.Node, attention: HeadAttention) -> None:
        """Gives the output the units of the heads, and each parameter among the inputs those along its dimension of heads."""
        heads = self.heads_by_attention[node]
        for source, units, dim in attention_inputs(node, attention, heads):
            self.channels[source] = Channels(units=units, dim=dim)
        self.channels[node] = Channels(units=np.repeat(heads, attention.head_dim), dim=-1)
        if not self.only_feeds_norm(node):
            self.routed.append(node)

    def is_hidden(self, node: fx.Node) -> bool:
        """Returns whether all that a linear layer's output meets before other linear layers keeps channels apart."""
        waiting, seen = [node], {node}
        while waiting:
            for user in waiting.pop().users:
                if user in seen:
                    continue
                seen.add(user)
                module = self.modules[str(user.target)] if user.op == "call_module" else None
                if isinstance(module, nn.Linear):
                    continue
                if not isinstance(module, CHANNELWISE_MODULES) and user.target not in CHANNELWISE:
                    return False
                waiting.append(user)
        return len(seen) > 1

    def visit_output(self, node: fx.Node) -> None:
        features = node.args[0]
        if not isinstance(features, fx.Node) or "tensor_meta" not in features.meta or len(shape_of(features)) != 2:
            raise InputError("This backbone cannot be routed: it should return one tensor, (batch, num_features).")
        for other in self.root.graph.nodes:  # parameters that scale no units
            self.channels.setdefault(other, Channels(units=None))


def attention_inputs(
    node: fx.Node, attention: HeadAttention, heads: np.ndarray
) -> Iterator[tuple[fx.Node, np.ndarray, int]]:
    """Yields the parameters that are inputs of an attention, with their units and the dimension that holds them."""
    for source, dim in zip(node.args[1:], attention.HEAD_DIMS, strict=False):
        if not isinstance(source, fx.Node) or source.op != "get_attr" or dim is None:
            continue
        assert shape_of(source)[dim] == len(heads)
        yield source, heads, dim


def trace_channels(graph_module: fx.GraphModule) -> ChannelMap:
    """Finds the units of a traced backbone whose nodes carry shapes (`torch.fx.passes.shape_prop`): those of a transformer if it
    has attention that can be cut by heads, else those of a CNN.

    Raises:
        InputError: An operation cannot be followed; the message names its module.
    """
    is_transformer = any(isinstance(module, HeadAttention) for module in graph_module.modules())
    if find_image_size(graph_module) and not is_transformer:
        raise InputError(
            "This backbone cannot be routed: it is built for one size of images, and has no attention of a kind that can be cut "
            "by heads (torch's MultiheadAttention, torchvision's of Swin, timm's Attention)."
        )
    return (TokenTracer if is_transformer else ChannelTracer)(graph_module).run()
