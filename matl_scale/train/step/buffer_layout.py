"""The layout of the flat buffer that a step's all-reduce sends: named parts in one order, for packing and unpacking."""

import math
from collections.abc import Hashable, Mapping

import torch


class BufferLayout:
    """Which part of a flat buffer holds what: the shape of every part, in the order in which the parts lie in the buffer."""

    def __init__(self, shapes: Mapping[Hashable, tuple[int, ...]]) -> None:
        self.shapes = dict(shapes)
        self._sizes = [math.prod(shape) for shape in self.shapes.values()]

    @property
    def num_values(self) -> int:
        return sum(self._sizes)

    def pack(self, parts: Mapping[Hashable, torch.Tensor], like: torch.Tensor) -> torch.Tensor:
        """Returns the flat buffer, shape `(num_values,)`, of the dtype and on the device of `like`. Parts not given are zero."""
        assert parts.keys() <= self.shapes.keys()
        return torch.cat(
            [
                parts[key].flatten() if key in parts else like.new_zeros(size)
                for key, size in zip(self.shapes, self._sizes, strict=True)
            ]
        )

    def unpack(self, flat: torch.Tensor) -> dict[Hashable, torch.Tensor]:
        """Returns views of the buffer, by key, in their shapes."""
        pieces = flat.split(self._sizes)
        return {key: piece.view(shape) for (key, shape), piece in zip(self.shapes.items(), pieces, strict=True)}
