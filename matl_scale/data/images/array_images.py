"""Images whose pixels are in memory."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from matl_scale.errors import InputError


@dataclass(frozen=True, kw_only=True)
class ArrayImages:
    """Pixels that are encoded as PNG when they are read.

    Raises:
        InputError: The pixels have another type or shape, or there are fewer images than are read.
    """

    root: str  # where they come from
    # uint8, shape `(num_images, height, width)`, or `(num_images, height, width, 3)`; 4 channels hold transparency
    pixels: np.ndarray = field(repr=False)

    def __post_init__(self) -> None:
        shape, dtype = self.pixels.shape, self.pixels.dtype
        if dtype != np.uint8 or not (len(shape) == 3 or (len(shape) == 4 and shape[3] in (3, 4))):
            raise InputError(
                f"`pixels` of {self.root} should be uint8, from 0 to 255, of the shape (images, height, width) or (images, "
                f"height, width, 3). Got {dtype}, shape {shape}."
            )

    def read(self, names: Sequence[str], indices: np.ndarray) -> Iterator[bytes]:  # noqa: ARG002
        if len(indices) and indices.max() >= len(self.pixels):
            raise InputError(
                f"`pixels` of {self.root} should have an image for every name. Got {len(self.pixels)} images."
            )
        return (encode_png(self.pixels[index]) for index in indices)


def encode_png(pixels: np.ndarray) -> bytes:
    """Encodes uint8 pixels, shape `(height, width)` or `(height, width, 3)`, as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
