"""Attention within windows of an image, in a form that can be cut by heads (`routing.attention`).

Sources: Liu et al., Swin Transformer, ICCV 2021, arXiv 2103.14030 (shifted windows, biases by relative position), and Swin
Transformer V2, CVPR 2022, arXiv 2111.09883 (cosines).
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from matl_scale.routing.attention import HeadAttention


class WindowAttention(HeadAttention):
    """Attention within windows of an image, whose logits have a bias by relative position. After a shift, pixels that are no
    neighbours in the image do not see each other.

    Args:
        head_dim: The number of channels of a head.
        window: Height and width of a window, in pixels.
        shift: How far the windows are shifted, in pixels.
        dropout: As in `HeadAttention`.
        cosine: Whether logits are cosines of queries and keys, times a factor per head (Swin V2).
    """

    HEAD_DIMS = (None, None, 1, 0)
    MAX_LOG_SCALE = 4.605170185988092  # ln 100, of a head's factor
    MAX_BIAS = 16  # with cosines
    MASKED = -100.0  # added to the logits of pixels that are no neighbours

    def __init__(
        self, head_dim: int, window: Sequence[int], shift: Sequence[int], dropout: float = 0.0, cosine: bool = False
    ) -> None:
        super().__init__(head_dim, dropout)
        self.window, self.shift, self.cosine = list(window), list(shift), cosine

    def forward(self, qkv: torch.Tensor, *inputs: torch.Tensor) -> torch.Tensor:
        """Computes the heads.

        Args:
            qkv: Shape `(batch, num_windows, pixels of a window, 3 · num_heads · head_dim)`.
            inputs: The images, of which only the size counts, shape `(batch, height, width, num_channels)`; the index of the
                relative position of each pair of pixels, flattened; the bias of each position, shape
                `(num_positions, num_heads)`; with cosines also the logarithm of their factors, shape `(num_heads, 1, 1)`.

        Returns:
            Shape `(batch, num_windows, pixels of a window, num_heads · head_dim)`.
        """
        images, index, table, *log_scale = inputs
        query, key, value = self.split(qkv)
        num_pixels = qkv.shape[-2]
        bias = table.index_select(0, index).view(num_pixels, num_pixels, -1).movedim(-1, 0)
        if self.cosine:
            bias = self.MAX_BIAS * torch.sigmoid(bias)
            query = functional.normalize(query, dim=-1) * log_scale[0].clamp(max=self.MAX_LOG_SCALE).exp()
            key = functional.normalize(key, dim=-1)
        else:
            query = query * self.head_dim**-0.5
        logits = query @ key.transpose(-2, -1) + bias
        mask = self.mask(images)
        weights = torch.softmax(logits if mask is None else logits + mask[:, None], dim=-1)
        return self.join(functional.dropout(weights, self.dropout, self.training) @ value)

    def mask(self, images: torch.Tensor) -> torch.Tensor | None:
        """Returns what is added to the logits of all heads, shape `(num_windows, pixels, pixels)`; None without a shift."""
        height, width = padded_size(images, self.window)
        shift = effective_shift(images, self.window, self.shift)
        if not any(shift):
            return None
        regions = images.new_zeros(1, height, width, 1)
        rows, columns = (
            (slice(0, -size), slice(-size, -step), slice(-step, None)) if step else (slice(None),)
            for size, step in zip(self.window, shift, strict=True)
        )
        for number, (row, column) in enumerate((row, column) for row in rows for column in columns):
            regions[:, row, column] = number
        windows = partition(regions, self.window)[0, :, :, 0]
        return (windows[:, None] != windows[:, :, None]).to(images.dtype) * self.MASKED

    def extra_repr(self) -> str:
        return f"head_dim={self.head_dim}, window={self.window}, shift={self.shift}, cosine={self.cosine}"


class WindowSplit(nn.Module):
    """Shifts images in a cycle and cuts them into windows; pads them with zeros to whole windows before."""

    def __init__(self, window: Sequence[int], shift: Sequence[int]) -> None:
        super().__init__()
        self.window, self.shift = list(window), list(shift)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Takes `x`, shape `(batch, height, width, num_channels)`; returns `(batch, num_windows, pixels, num_channels)`."""
        height, width = padded_size(x, self.window)
        rows, columns = effective_shift(x, self.window, self.shift)
        padded = functional.pad(x, (0, 0, 0, width - x.shape[2], 0, height - x.shape[1]))
        if rows or columns:
            padded = torch.roll(padded, (-rows, -columns), dims=(1, 2))
        return partition(padded, self.window)


class WindowMerge(nn.Module):
    """Undoes `WindowSplit`."""

    def __init__(self, window: Sequence[int], shift: Sequence[int]) -> None:
        super().__init__()
        self.window, self.shift = list(window), list(shift)

    def forward(self, windows: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """Returns images of the size of `images`, shape `(batch, height, width, num_channels)`."""
        height, width = padded_size(images, self.window)
        rows, columns = effective_shift(images, self.window, self.shift)
        grid = windows.unflatten(2, self.window).unflatten(1, (height // self.window[0], width // self.window[1]))
        merged = grid.transpose(2, 3).flatten(3, 4).flatten(1, 2)
        if rows or columns:
            merged = torch.roll(merged, (rows, columns), dims=(1, 2))
        unpadded: torch.Tensor = merged[:, : images.shape[1], : images.shape[2]]
        return unpadded.contiguous()


class NeighbourGather(nn.Module):
    """Puts the channels of 2 × 2 neighbouring pixels side by side; pads images with zeros to an even size before."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Takes `x`, shape `(batch, height, width, num_channels)`; returns half the size with four times the channels."""
        padded = functional.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        return torch.cat([padded[:, row::2, column::2] for column in (0, 1) for row in (0, 1)], dim=-1)


def padded_size(images: torch.Tensor, window: Sequence[int]) -> tuple[int, int]:
    """Returns height and width of images `(batch, height, width, num_channels)` in whole windows."""
    return -(-images.shape[1] // window[0]) * window[0], -(-images.shape[2] // window[1]) * window[1]


def effective_shift(images: torch.Tensor, window: Sequence[int], shift: Sequence[int]) -> list[int]:
    """Returns the shift; none along a side where there is a single window."""
    sizes = padded_size(images, window)
    return [0 if side <= size else step for side, size, step in zip(sizes, window, shift, strict=True)]


def partition(x: torch.Tensor, window: Sequence[int]) -> torch.Tensor:
    """Cuts images of whole windows, shape `(batch, height, width, num_channels)`, into `(batch, num_windows, pixels,
    num_channels)`."""
    grid = x.unflatten(2, (-1, window[1])).unflatten(1, (-1, window[0]))
    windows: torch.Tensor = grid.transpose(2, 3).flatten(3, 4).flatten(1, 2)
    return windows
