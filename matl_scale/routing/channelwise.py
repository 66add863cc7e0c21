"""Layers without weights that compute each channel from itself alone, whatever their number: padding and pools that torch does
not have."""

from collections.abc import Sequence
from math import comb

import torch
from torch import nn
from torch.nn import functional


class SamePadding(nn.Module):
    """Pads images so that the layer behind it, with the same arguments, returns ⌈size ÷ stride⌉ pixels, as TensorFlow's padding
    "SAME" does: the right and the lower side get the odd pixel.

    Args:
        kernel_size: Height and width.
        stride: Likewise.
        dilation: Likewise.
        value: Of the pixels that are added.
    """

    def __init__(
        self, kernel_size: Sequence[int], stride: Sequence[int], dilation: Sequence[int] = (1, 1), value: float = 0.0
    ) -> None:
        super().__init__()
        self.reach = [gap * (taps - 1) + 1 for taps, gap in zip(kernel_size, dilation, strict=True)]
        self.stride, self.value = list(stride), value

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Pads `x`, shape `(batch, num_channels, height, width)`."""
        sides: list[int] = []
        for size, reach, stride in zip(x.shape[:1:-1], self.reach[::-1], self.stride[::-1], strict=True):
            missing = max((-(-size // stride) - 1) * stride + reach - size, 0)
            sides += [missing // 2, missing - missing // 2]
        return functional.pad(x, sides, value=self.value) if any(sides) else x


class BlurPool(nn.Module):
    """Blurs each channel by a binomial filter and keeps every `stride`-th pixel (Zhang, *Making Convolutional Networks
    Shift-Invariant Again*, ICML 2019, arXiv 1904.11486).

    Args:
        size: Of the filter, in pixels.
        stride: The distance between the pixels that are kept.
        padding: On every side, in pixels.
        mode: What the padding is filled with, as in `torch.nn.functional.pad`.
    """

    weight: torch.Tensor

    def __init__(self, size: int, stride: int, padding: int, mode: str) -> None:
        super().__init__()
        self.stride, self.padding, self.mode = stride, padding, mode
        row = torch.tensor([comb(size - 1, tap) / 2 ** (size - 1) for tap in range(size)])
        self.register_buffer("weight", torch.outer(row, row)[None, None], persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Takes `x`, shape `(batch, num_channels, height, width)`."""
        weight = self.weight.expand(x.shape[1], -1, -1, -1)
        padded = functional.pad(x, [self.padding] * 4, mode=self.mode)
        return functional.conv2d(padded, weight, stride=self.stride, groups=x.shape[1])
