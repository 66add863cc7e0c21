"""Decodes images to RGB squares. No torch.

JPEG is decoded by simplejpeg (libjpeg-turbo), which scales while it decodes and is therefore faster than Pillow. It reports
truncated files, and works with any build of torch. Pillow decodes everything else.
"""

import io

import numpy as np
import simplejpeg
from PIL import Image

from matl_scale.data.shards.layout import OPENED_FORMATS

JPEG_START = b"\xff\xd8\xff"


def decode_image(data: bytes, size: int) -> np.ndarray:
    """Decodes an image to uint8 RGB, shape `(size, size, 3)`. An image of another shape is scaled and centre-cropped.

    Raises:
        ValueError, OSError, SyntaxError, …: The image is damaged; Pillow's codecs raise many kinds of errors.
    """
    if data.startswith(JPEG_START):
        try:
            pixels = simplejpeg.decode_jpeg(data, min_height=size, min_width=size, min_factor=1)
            return pixels if pixels.shape[:2] == (size, size) else np.asarray(fit_square(Image.fromarray(pixels), size))
        except ValueError:
            pass  # simplejpeg rejects harmless flaws and CMYK; Pillow decides
    with Image.open(io.BytesIO(data), formats=OPENED_FORMATS) as encoded:
        image = encoded.convert("RGB")
    return np.asarray(fit_square(image, size))


def fit_square(image: Image.Image, size: int, resampling: Image.Resampling = Image.Resampling.BILINEAR) -> Image.Image:
    """Scales the shorter side to `size` pixels and crops the middle of the longer one."""
    if image.size == (size, size):
        return image
    side = min(image.size)
    left, top = ((length - side) / 2 for length in image.size)
    return image.resize((size, size), resampling, box=(left, top, left + side, top + side))
