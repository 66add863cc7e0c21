"""Images whose pixels are in memory."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image


@dataclass(frozen=True, kw_only=True)
class ArrayImages:
    """Pixels that are encoded as PNG when they are read."""

    root: str  # where they come from
    # uint8, shape `(num_images, height, width)` or `(num_images, height, width, 3)`
    pixels: np.ndarray = field(repr=False)

    def read(self, names: Sequence[str], indices: np.ndarray) -> Iterator[bytes]:  # noqa: ARG002
        return (encode_png(self.pixels[index]) for index in indices)


def encode_png(pixels: np.ndarray) -> bytes:
    """Encodes uint8 pixels, shape `(height, width)` or `(height, width, 3)`, as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
