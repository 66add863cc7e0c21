"""The task routing layer: multiplies its input by the active route's mask. The mask is a buffer, never a parameter."""

from typing import Any

import torch
from torch import nn


class TaskRouter(nn.Module):
    """Switches off the units that are inactive for the route.

    The product is out of place and differentiable, so inactive units get exactly zero gradient whatever follows. (The
    authors' layer edits `.data`, which is correct only if a ReLU follows.)

    Args:
        mask: Bool, shape `(num_routes, num_channels)`.
        channel_dim: The dimension of the input that holds the channels: 1 or -1.
    """

    mask: torch.Tensor

    def __init__(self, mask: torch.Tensor, channel_dim: int = 1) -> None:
        super().__init__()
        if mask.dtype != torch.bool or mask.ndim != 2:
            raise ValueError(
                f"`mask` should be bool, (num_routes, num_channels). Got {mask.dtype}, {tuple(mask.shape)}."
            )
        self.channel_dim = channel_dim
        self.register_buffer("mask", mask)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        saved = state_dict.get(f"{prefix}mask")
        if saved is not None and not torch.equal(saved.to(self.mask.device), self.mask):
            errors = arguments[-1]
            errors.append(f"{prefix}mask differs: use the routes, σ and seed that the weights were trained with")
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def forward(self, x: torch.Tensor, route: torch.Tensor) -> torch.Tensor:
        """Applies the mask.

        Args:
            x: Shape `(batch, num_channels, ...)`, or with the channels last.
            route: The active route, integers of shape `(1,)` for the whole batch, or `(batch,)` for a route per image.

        Returns:
            Same shape as `x`.
        """
        mask = self.mask.index_select(0, route)
        ones = (1,) * (x.ndim - 2)
        shape = (len(mask), *ones, -1) if self.channel_dim == -1 else (len(mask), -1, *ones)
        return x * mask.reshape(shape).to(x.dtype)

    def extra_repr(self) -> str:
        num_routes, num_channels = self.mask.shape
        return f"num_routes={num_routes}, num_channels={num_channels}"
