"""Norms that mix channels, restricted to the units of the active task, so that a sub-network normalises by itself.

Formulas: Ba et al., Layer Normalization, 2016, arXiv 1607.06450; Wu, He, Group Normalization, 2018, arXiv 1803.08494.
"""

import torch
from torch import nn
from torch.nn import functional

from matl_scale.routing.units import places_of


class TaskLayerNorm(nn.Module):
    """`nn.LayerNorm` over the channels that the active task keeps.

    Args:
        norm: The layer norm to replace; its weights are taken over.
        mask: Which channels each task keeps, shape `(num_tasks, num_channels)`.
        channel_dim: Which dimension of the input holds the channels: 1 or -1.
    """

    mask: torch.Tensor

    def __init__(self, norm: nn.LayerNorm, mask: torch.Tensor, channel_dim: int) -> None:
        super().__init__()
        self.weight, self.bias, self.eps, self.channel_dim = norm.weight, norm.bias, norm.eps, channel_dim
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: torch.Tensor, task: torch.Tensor) -> torch.Tensor:
        """Normalises `x`; what the task does not keep comes out as its bias.

        Args:
            x: Shape `(batch, num_channels, ...)`, or with the channels last.
            task: The active task, shape `(1,)` or `(batch,)`.
        """
        x = at_least_float32(x).movedim(self.channel_dim, -1)
        mask = self.mask.index_select(0, task)
        mask = mask.reshape(len(mask), *(1,) * (x.ndim - 2), -1).to(x.dtype)
        count = mask.sum(dim=-1, keepdim=True)
        centred = (x - (x * mask).sum(dim=-1, keepdim=True) / count) * mask
        variance = centred.square().sum(dim=-1, keepdim=True) / count
        y = centred * (variance + self.eps).rsqrt() * self.weight + self.bias
        return y.movedim(-1, self.channel_dim)

    def forward_kept(
        self,
        x: torch.Tensor,
        task: torch.Tensor,  # noqa: ARG002
        weight: torch.Tensor,
        bias: torch.Tensor,
    ) -> torch.Tensor:
        """Does the same for the active task's channels alone: `x` and the affine weights hold only these."""
        x = at_least_float32(x).movedim(self.channel_dim, -1)
        return functional.layer_norm(x, weight.shape, weight, bias, self.eps).movedim(-1, self.channel_dim)


class TaskGroupNorm(nn.Module):
    """`nn.GroupNorm` over the channels that the active task keeps; groups stay as they are, with fewer members.

    Args:
        norm: The group norm to replace; its weights are taken over.
        mask: Which channels each task keeps, shape `(num_tasks, num_channels)`.
        kept: The same as places, from `kept_places`, shape `(num_tasks, num_kept)`.
    """

    mask: torch.Tensor
    groups: torch.Tensor
    kept: torch.Tensor

    def __init__(self, norm: nn.GroupNorm, mask: torch.Tensor, kept: torch.Tensor) -> None:
        super().__init__()
        self.weight, self.bias, self.eps, self.num_groups = norm.weight, norm.bias, norm.eps, norm.num_groups
        groups = torch.arange(norm.num_channels) // (norm.num_channels // norm.num_groups)
        self.register_buffer("groups", groups, persistent=False)
        self.register_buffer("mask", mask, persistent=False)
        self.register_buffer("kept", kept, persistent=False)

    def forward(self, x: torch.Tensor, task: torch.Tensor) -> torch.Tensor:
        """Normalises `x`; what the task does not keep comes out as its bias.

        Args:
            x: Shape `(batch, num_channels, height, width)`.
            task: The active task, shape `(1,)` or `(batch,)`.
        """
        mask = self.mask.index_select(0, task)
        return self._normalise(x, self.groups, mask, self.weight, self.bias)

    def forward_kept(
        self, x: torch.Tensor, task: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor
    ) -> torch.Tensor:
        """Does the same for the active task's channels alone: `x` and the affine weights hold only these."""
        groups = self.groups.index_select(0, places_of(self.kept, task))
        return self._normalise(x, groups, torch.ones_like(bias, dtype=torch.bool)[None], weight, bias)

    def _normalise(
        self, x: torch.Tensor, groups: torch.Tensor, mask: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor
    ) -> torch.Tensor:
        with torch.autocast(x.device.type, enabled=False):  # sums over groups are matrix products, which it would round
            return self._normalise_exactly(at_least_float32(x), groups, mask, weight, bias)

    def _normalise_exactly(
        self, x: torch.Tensor, groups: torch.Tensor, mask: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor
    ) -> torch.Tensor:
        members = functional.one_hot(groups, self.num_groups).to(x.dtype)  # (num_channels, num_groups)
        on = mask[:, :, None, None].to(x.dtype)
        # a group of which the task keeps nothing has no channel to normalise
        count = (mask.to(x.dtype) @ members).clamp(min=1) * (x.shape[2] * x.shape[3])

        def group_mean(values: torch.Tensor) -> torch.Tensor:
            means = (values.sum(dim=(2, 3)) @ members) / count
            return means.index_select(1, groups)[:, :, None, None]

        centred = (x - group_mean(x * on)) * on
        scale = (group_mean(centred.square()) + self.eps).rsqrt()
        return centred * scale * weight[:, None, None] + bias[:, None, None]


def at_least_float32(x: torch.Tensor) -> torch.Tensor:
    """Norms compute in float32 under autocast, as torch's own do."""
    return x.float() if x.dtype.itemsize < 4 else x
