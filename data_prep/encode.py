"""Pixels of data sets that come as arrays, encoded without loss."""

import io

import numpy as np
from PIL import Image


def encode_png(pixels: np.ndarray) -> bytes:
    """Encodes uint8 pixels, shape `(height, width)` or `(height, width, 3)`, as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def one_vs_rest(classes: np.ndarray, num_classes: int) -> np.ndarray:
    """Turns class indices, shape `(num_images,)`, into binary labels, shape `(num_images, num_classes)`."""
    return (classes[:, None] == np.arange(num_classes)).astype(np.int8)
