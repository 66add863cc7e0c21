"""Checks that training can decode an image, and resizes it if asked. Without resizing, its bytes stay as they are.

What may be an image, and its pixels, are decided by the room that training and prediction read images through.
"""

import hashlib
import io
from typing import NamedTuple

import numpy as np
from PIL import Image

from matl_scale.data.images.decode import UprightImage, read_image, to_square
from matl_scale.data.images.fit import fit_square, needed_for
from matl_scale.data.images.gate import MAX_PIXELS
from matl_scale.data.images.orientation import UPRIGHT
from matl_scale.data.images.png import PNG_START, check_png, size_of_plain_png
from matl_scale.data.shards.layout import DIGEST_BYTES

# so that a network answers alike on originals and on the resized set: colours of half the resolution, as JPEG has them by
# default, would move small images far more than the rounding of this quality
JPEG_QUALITY, FULL_COLOURS = 98, 0


class CheckedImage(NamedTuple):
    """An image that decodes: its bytes, file extension, upright width and height in pixels, and EXIF's number of how it was
    oriented when it was given, 1 for upright.
    """

    data: bytes
    extension: str
    width: int
    height: int
    orientation: int


def check_image(data: bytes, resize: int | None = None, max_pixels: int = MAX_PIXELS) -> CheckedImage:
    """Checks an image as training decodes it. With `resize`, makes it the square that training would make of it.

    In a JPEG, every coefficient is read but only the smallest size is computed. A plain PNG is inflated, but not unfiltered.
    Everything else is decoded.

    Args:
        data: The encoded image.
        resize: Side length in pixels. JPEG is encoded again as JPEG, everything else as PNG, upright and opaque; an upright
            image of that size keeps its bytes.
        max_pixels: More pixels than these are refused.

    Raises:
        BadImage: The image is damaged, or one that the gate refuses.
    """
    if resize is None and data.startswith(PNG_START):
        size = size_of_plain_png(data, check_png(data, max_pixels))
        if size is not None:
            return CheckedImage(data, "png", *size, UPRIGHT)
    image = read_image(data, needed_for("crop", resize or 1), max_pixels)
    if resize is None or (image.width == image.height == resize and image.orientation == UPRIGHT):
        return CheckedImage(data, image.extension, image.width, image.height, image.orientation)
    return encode_square(image, resize)


def encode_square(image: UprightImage, size: int) -> CheckedImage:
    """Encodes the square of an image, in one channel if it is grey."""
    pixels = image.pixels
    if isinstance(pixels, Image.Image) and pixels.mode == "L":
        square = fit_square(pixels, size)
        square.info = {}  # among it a colour profile, which nobody applies
    else:
        values = to_square(pixels, size)
        is_grey = np.array_equal(values[..., 0], values[..., 1]) and np.array_equal(values[..., 0], values[..., 2])
        square = Image.fromarray(values[..., 0] if is_grey else values)
    buffer = io.BytesIO()
    if image.extension == "jpg":
        square.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=FULL_COLOURS)
    else:
        square.save(buffer, "PNG")
    extension = "jpg" if image.extension == "jpg" else "png"
    return CheckedImage(buffer.getvalue(), extension, size, size, image.orientation)


def digest_image(data: bytes) -> bytes:
    """Returns the first 16 bytes of the SHA-256 of an image's bytes."""
    return hashlib.sha256(data).digest()[:DIGEST_BYTES]
