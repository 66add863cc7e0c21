"""Several slots as one network: the sub-networks of their routes side by side, each on its own images.

All sub-networks have the same shapes. So the channels of the slots are stacked: a tensor of the shape
`(batch, num_channels, height, width)` becomes `(batch, num_slots · num_channels, height, width)`, a conv a grouped conv, and a
batch norm one over all channels, whose statistics are those of each slot alone. Small slots leave most of a processor idle;
stacked, they share the calls of every layer, and the gradients of all slots reach a parameter at once.
"""

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

from matl_scale.errors import InputError
from matl_scale.routing.affine import AffineWeights
from matl_scale.routing.batch_norm import RouteBatchNorm2d
from matl_scale.routing.derive import ActiveNorm
from matl_scale.routing.operations import (
    ELEMENTWISE_FUNCTIONS,
    ELEMENTWISE_MODULES,
    GATE_FUNCTIONS,
    GATE_MODULES,
    POOL_FUNCTIONS,
    POOL_MODULES,
    PRODUCTS,
    SUMS,
)
from matl_scale.routing.slicing import AffineCut, Cut, StackedIndices, stack_units
from matl_scale.routing.subnetwork import Subnetwork
from matl_scale.vision import StochasticDepth

# a grouped conv of fewer channels leaves most of a vector register empty (measured on AVX2)
FEW_CHANNELS = 8
# what computes each channel from itself alone
CHANNELWISE_MODULES = (*ELEMENTWISE_MODULES, *GATE_MODULES, *POOL_MODULES, nn.Flatten)
CHANNELWISE = (
    *ELEMENTWISE_FUNCTIONS, *GATE_FUNCTIONS, *POOL_FUNCTIONS, *PRODUCTS, *SUMS, torch.flatten, "flatten", operator.getitem,
)  # fmt: skip
RANDOM_MODULES = (nn.Dropout, nn.Dropout2d, StochasticDepth)  # each slot draws for itself


class StackedSubnetworks(nn.Module):
    """Runs the sub-networks of several slots at once, with the index tables of `subnetwork`.

    Raises:
        InputError: A layer would mix the slots. The message names it.
    """

    def __init__(self, subnetwork: Subnetwork) -> None:
        super().__init__()
        self.subnetwork = subnetwork
        self.dense = stack_graph(subnetwork.dense)

    def gather(self, routes: torch.Tensor, affine: Sequence[AffineWeights]) -> list[torch.Tensor]:
        """Returns the slices of all slots, one behind the other in the first dimension of each, in the order of the recipes.
        Gradients flow back into the parameters.

        Args:
            routes: The route of every slot, integers of shape `(num_slots,)`. Slots may have the same one.
            affine: The own affine weights of every slot's route; None where all routes share them.
        """
        indices = self.subnetwork.stacked_indices(routes)
        return [self._make(recipe, indices, affine) for recipe in self.subnetwork.recipes]

    def _make(self, recipe: Any, indices: StackedIndices, affine: Sequence[AffineWeights]) -> torch.Tensor:
        if isinstance(recipe, AffineCut):
            return recipe.make_own_stacked(indices, affine)
        assert isinstance(recipe, Cut), "the training network has no other slices"
        weight, num_slots = getattr(recipe.module, recipe.name), len(affine)
        return stack_units(weight, indices[recipe.outputs], indices[recipe.inputs], num_slots)

    def forward(
        self, images: Sequence[torch.Tensor], routes: torch.Tensor, slices: list[torch.Tensor]
    ) -> list[torch.Tensor]:
        """Returns the features of every slot, each of shape `(batch, num_features)`, zero where they are inactive for its route.

        Args:
            images: Of every slot, equally many, each of shape `(batch, 3, height, width)`.
            routes: The route of every slot, integers of shape `(num_slots,)`.
            slices: From `gather` for these routes.
        """
        stacked = self.dense([torch.cat(list(images), dim=1)], routes, slices)
        by_slot = stacked.view(len(stacked), len(routes), -1).unbind(dim=1)
        return [self.subnetwork.widen(part, route) for part, route in zip(by_slot, routes.split(1), strict=True)]


def stack_graph(dense: fx.GraphModule) -> fx.GraphModule:
    """Returns the graph of a sub-network for several slots, with the modules of `dense`.

    Raises:
        InputError: An operation mixes channels, or draws random numbers.
    """
    graph = fx.Graph()
    graph.output(graph.graph_copy(dense.graph, {}))
    modules = dict(dense.named_modules())
    route = graph.find_nodes(op="placeholder", target="route")[0]
    for node in graph.nodes:
        if node.op == "call_function" and node.target is functional.conv2d:
            node.target, node.args = stacked_conv, (route, *node.args)
        elif not is_channelwise(node, modules):
            raise InputError(
                f"This backbone cannot run several slots at once: `{node.name}` mixes channels or draws random numbers. "
                "Use `train.slots` = single."
            )
    graph.lint()
    return fx.GraphModule(modules, graph, "StackedSubnetworks")


def is_channelwise(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """Returns whether a node computes each channel from itself alone, or computes nothing."""
    if node.op != "call_module":
        # slices for anything else than convs and norms have no fixed place for the channels
        has_slice = any(is_slice(source) for source in node.all_input_nodes)
        return node.op in ("placeholder", "output") or (node.target in CHANNELWISE and not has_slice)
    module = modules[str(node.target)]
    if isinstance(module, RANDOM_MODULES):
        return module.p == 0
    if isinstance(module, ActiveNorm):
        return isinstance(module.norm, RouteBatchNorm2d)
    return isinstance(module, CHANNELWISE_MODULES)


def is_slice(node: fx.Node) -> bool:
    return node.target is operator.getitem and isinstance(node.args[0], fx.Node) and node.args[0].target == "slices"


def stacked_conv(
    routes: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    groups: int = 1,
    **options: Any,
) -> torch.Tensor:
    """Returns the conv of every slot.

    Args:
        routes: The route of every slot, shape `(num_slots,)`; only their number counts.
        x: Shape `(batch, num_slots · num_inputs, height, width)`.
        weight: Shape `(num_slots · num_outputs, num_inputs ÷ groups, kernel_height, kernel_width)`.
        bias: Shape `(num_slots · num_outputs,)`.
        groups: Of one slot.
        options: Of the conv.

    Returns:
        Shape `(batch, num_slots · num_outputs, height, width)`.
    """
    num_slots = len(routes)
    weight, options["padding"] = without_idle_taps(x, weight, **options)
    convolve: Callable[..., torch.Tensor] = functional.conv2d
    if groups > 1 or x.shape[1] >= num_slots * FEW_CHANNELS:
        return convolve(x, weight, bias, groups=num_slots * groups, **options)
    biases = [None] * num_slots if bias is None else bias.chunk(num_slots)
    parts = zip(x.chunk(num_slots, dim=1), weight.chunk(num_slots), biases, strict=True)
    return torch.cat([convolve(images.contiguous(), *parameters, **options) for images, *parameters in parts], dim=1)


def without_idle_taps(
    x: torch.Tensor, weight: torch.Tensor, stride: Sequence[int], padding: Sequence[int] | str, dilation: Sequence[int]
) -> tuple[torch.Tensor, Sequence[int] | str]:
    """Returns the part of a conv's kernel that meets pixels and not only padding, and the padding that it needs.

    The last layers of a network often run on maps smaller than their kernels: on a single pixel, one tap of 3 × 3 is left.
    """
    if isinstance(padding, str):
        return weight, padding
    kept, rest = [slice(None), slice(None)], []
    for dim, (step, pad, gap) in enumerate(zip(stride, padding, dilation, strict=True), start=2):
        size, taps = x.shape[dim], weight.shape[dim]
        num_outputs = (size + 2 * pad - gap * (taps - 1) - 1) // step + 1
        first = next((tap for tap in range(taps) if tap * gap - pad + (num_outputs - 1) * step >= 0), 0)
        last = next((tap for tap in reversed(range(taps)) if tap * gap - pad < size), taps - 1)
        needed = pad - first * gap
        if needed < 0 or (size + 2 * needed - gap * (last - first) - 1) // step + 1 != num_outputs:
            return weight, padding  # it would need other paddings on the two sides
        kept.append(slice(first, last + 1))
        rest.append(needed)
    return weight[tuple(kept)], rest
