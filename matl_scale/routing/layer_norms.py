"""Norms that mix channels, restricted to the active route's units, so that inactive units do not affect a sub-network.

Formulas: Ba et al., Layer Normalization, 2016, arXiv 1607.06450; Wu, He, Group Normalization, 2018, arXiv 1803.08494.
"""

import torch
from torch import nn
from torch.nn import functional

from matl_scale.routing.affine import AffineWeights, read_affine
from matl_scale.routing.units import active_indices


class RouteLayerNorm(nn.Module):
    """`nn.LayerNorm` over the channels that are active for the route, with the weights of the norm that it replaces. `mask` is
    bool, shape `(num_routes, num_channels)`; the channels are in dimension `channel_dim` of the input, 1 or -1."""

    mask: torch.Tensor
    weight: torch.Tensor  # a buffer if routes have affine weights of their own
    bias: torch.Tensor

    def __init__(self, norm: nn.LayerNorm, mask: torch.Tensor, channel_dim: int) -> None:
        super().__init__()
        self.weight, self.bias, self.eps, self.channel_dim = norm.weight, norm.bias, norm.eps, channel_dim
        self.affine_index: int | None = None
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: torch.Tensor, route: torch.Tensor, affine: AffineWeights = None) -> torch.Tensor:
        """Normalises `x`, shape `(batch, num_channels, ...)`, or with the channels last; `route` has shape `(1,)` or `(batch,)`.
        Inactive channels become their bias; the router behind this norm switches them off. `affine` are the routes' own affine
        weights, if they have any."""
        x = at_least_float32(x).movedim(self.channel_dim, -1)
        weight, bias = (
            values.view(*values.shape[:-1], *(1,) * (x.ndim - 2), -1) if values.ndim > 1 else values
            for values in read_affine(self, affine)
        )
        mask = self.mask.index_select(0, route)
        mask = mask.reshape(len(mask), *(1,) * (x.ndim - 2), -1).to(x.dtype)
        count = mask.sum(dim=-1, keepdim=True)
        centred = (x - (x * mask).sum(dim=-1, keepdim=True) / count) * mask
        variance = centred.square().sum(dim=-1, keepdim=True) / count
        y = centred * (variance + self.eps).rsqrt() * weight + bias
        return y.movedim(-1, self.channel_dim)

    def forward_active(
        self,
        x: torch.Tensor,
        route: torch.Tensor,  # noqa: ARG002
        weight: torch.Tensor,
        bias: torch.Tensor,
    ) -> torch.Tensor:
        """Does the same when `x` and the affine weights hold only the route's active channels."""
        x = at_least_float32(x).movedim(self.channel_dim, -1)
        return functional.layer_norm(x, weight.shape, weight, bias, self.eps).movedim(-1, self.channel_dim)


class RouteGroupNorm(nn.Module):
    """`nn.GroupNorm` over the channels that are active for the route: the same groups and weights, with fewer members. The active
    channels are given twice: as a bool mask, shape `(num_routes, num_channels)`, and as indices, `(num_routes, num_active)`."""

    mask: torch.Tensor
    groups: torch.Tensor
    active: torch.Tensor
    weight: torch.Tensor  # a buffer if routes have affine weights of their own
    bias: torch.Tensor

    def __init__(self, norm: nn.GroupNorm, mask: torch.Tensor, active: torch.Tensor) -> None:
        super().__init__()
        self.weight, self.bias, self.eps, self.num_groups = norm.weight, norm.bias, norm.eps, norm.num_groups
        self.affine_index: int | None = None
        groups = torch.arange(norm.num_channels) // (norm.num_channels // norm.num_groups)
        self.register_buffer("groups", groups, persistent=False)
        self.register_buffer("mask", mask, persistent=False)
        self.register_buffer("active", active, persistent=False)

    def forward(self, x: torch.Tensor, route: torch.Tensor, affine: AffineWeights = None) -> torch.Tensor:
        """Normalises `x`, shape `(batch, num_channels, height, width)`; `route` has shape `(1,)` or `(batch,)`. Inactive channels
        become their bias; the router behind this norm switches them off. `affine` are the routes' own affine weights, if they
        have any."""
        return self._normalise(x, self.groups, self.mask.index_select(0, route), *read_affine(self, affine))

    def forward_active(
        self, x: torch.Tensor, route: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor
    ) -> torch.Tensor:
        """Does the same when `x` and the affine weights hold only the route's active channels."""
        groups = self.groups.index_select(0, active_indices(self.active, route))
        return self._normalise(x, groups, torch.ones_like(bias, dtype=torch.bool)[None], weight, bias)

    def _normalise(
        self, x: torch.Tensor, groups: torch.Tensor, mask: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor
    ) -> torch.Tensor:
        x = at_least_float32(x)
        members = functional.one_hot(groups, self.num_groups).to(x.dtype)  # (num_channels, num_groups)
        is_active = mask[:, :, None, None].to(x.dtype)

        def group_mean(values: torch.Tensor) -> torch.Tensor:
            means = (values.sum(dim=(2, 3)) @ members) / count
            return means.index_select(1, groups)[:, :, None, None]

        with torch.autocast(x.device.type, enabled=False):  # it would round the matrix products that sum over groups
            # at least 1: a group without active channels has nothing to normalise
            count = (mask.to(x.dtype) @ members).clamp(min=1) * (x.shape[2] * x.shape[3])
            centred = (x - group_mean(x * is_active)) * is_active
            scale = (group_mean(centred.square()) + self.eps).rsqrt()
            return centred * scale * weight[..., None, None] + bias[..., None, None]


def at_least_float32(x: torch.Tensor) -> torch.Tensor:
    """Returns `x` in float32 under autocast, where torch's own norms compute in float32 too."""
    return x.float() if x.dtype.itemsize < 4 else x
