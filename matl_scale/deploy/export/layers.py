"""Layers of torch's own kinds whose weights are copies of one route's slices."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn import functional

from matl_scale.routing.attention import HeadAttention
from matl_scale.routing.derive import RouteNorm
from matl_scale.routing.layer_norms import RouteGroupNorm, RouteLayerNorm
from matl_scale.routing.units import active_indices
from matl_scale.routing.window_attention import (
    NeighbourGather,
    WindowAttention,
    WindowMerge,
    WindowSplit,
    effective_shift,
    padded_size,
    partition,
)

Module = TypeVar("Module", bound=nn.Module)


class UnevenGroupNorm(nn.Module):
    """Group norm over neighbouring channels in groups of unequal size, because a route keeps more channels of some groups.

    Args:
        sizes: The number of channels in each group.
        eps: A constant added to the variance.
    """

    members: torch.Tensor

    def __init__(self, sizes: Sequence[int], eps: float) -> None:
        super().__init__()
        self.sizes, self.eps = tuple(sizes), eps
        self.weight, self.bias = nn.Parameter(torch.ones(sum(sizes))), nn.Parameter(torch.zeros(sum(sizes)))
        groups = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
        self.register_buffer("members", functional.one_hot(groups), persistent=False)  # (num_channels, num_groups)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalises `x`, shape `(batch, num_channels, height, width)`."""
        centred = x - self.group_mean(x)
        y = centred * (self.group_mean(centred.square()) + self.eps).rsqrt()
        return y * self.weight[:, None, None] + self.bias[:, None, None]

    def group_mean(self, x: torch.Tensor) -> torch.Tensor:
        members = self.members.to(x.dtype)
        means = x.mean(dim=(2, 3)) @ (members / members.sum(dim=0))
        return (means @ members.T)[:, :, None, None]


# layers that are none of torch's, each with what its code needs besides torch
OWN_LAYERS: dict[type[nn.Module], tuple[Callable[..., Any], ...]] = {
    UnevenGroupNorm: (),
    HeadAttention: (),
    WindowAttention: (padded_size, effective_shift, partition, HeadAttention),
    WindowSplit: (padded_size, effective_shift, partition),
    WindowMerge: (padded_size, effective_shift),
    NeighbourGather: (),
}


def build_conv(tensors: Sequence[torch.Tensor], options: dict[str, Any]) -> nn.Conv2d:
    """Builds a conv from a weight, and a bias if there is one; `options` are stride, padding, dilation and groups."""
    weight = tensors[0]
    outs, ins, *kernel = weight.shape
    size: Any = tuple(kernel)
    conv = nn.Conv2d(ins * options["groups"], outs, size, bias=len(tensors) > 1, device="meta", **options)
    return fill(conv, zip(("weight", "bias"), tensors, strict=False))


def build_linear(tensors: Sequence[torch.Tensor]) -> nn.Linear:
    """Builds a linear layer from a weight, and a bias if there is one."""
    outs, ins = tensors[0].shape
    linear = nn.Linear(ins, outs, bias=len(tensors) > 1, device="meta")
    return fill(linear, zip(("weight", "bias"), tensors, strict=False))


def build_norm(norm: RouteNorm, route: torch.Tensor, affine: Sequence[torch.Tensor]) -> nn.Module:
    """Builds the norm that one route sees, from weight and bias of its active channels, each of shape `(num_active,)`. A layer
    norm expects the channels in the last dimension."""
    named = list(zip(("weight", "bias"), affine, strict=True))
    num_active = len(affine[0])
    if isinstance(norm, RouteLayerNorm):
        return fill(nn.LayerNorm(num_active, norm.eps, device="meta"), named)
    if isinstance(norm, RouteGroupNorm):
        return fill(build_group_norm(norm, route), named)
    mean, var = norm.read(route)
    count = torch.zeros((), dtype=torch.long)
    statistics = [("running_mean", mean), ("running_var", var), ("num_batches_tracked", count)]
    return fill(nn.BatchNorm2d(num_active, norm.eps, norm.momentum, device="meta"), named + statistics)


def build_group_norm(norm: RouteGroupNorm, route: torch.Tensor) -> nn.Module:
    groups = norm.groups.index_select(0, active_indices(norm.active, route))
    sizes = torch.unique_consecutive(groups, return_counts=True)[1].tolist()
    if len(set(sizes)) == 1:
        return nn.GroupNorm(len(sizes), sum(sizes), norm.eps)
    return UnevenGroupNorm(sizes, norm.eps).to(norm.weight.device)


def fill(module: Module, tensors: Iterable[tuple[str, torch.Tensor]]) -> Module:
    """Sets copies of tensors in a module, by name; parameters stay parameters. Returns the module."""
    for name, tensor in tensors:
        value = tensor.detach().clone(memory_format=torch.contiguous_format)
        setattr(module, name, nn.Parameter(value) if name in module._parameters else value)
    return module
