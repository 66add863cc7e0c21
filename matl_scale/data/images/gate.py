"""The gate: what an image may be. Sharding, training, evaluation, prediction and pages all read images through it.

It knows refusals that need no pixels: bytes of no known kind, too many pixels, and values of more than 8 bits that somebody
has to scale who knows their range. `decode.py` refuses what is damaged.
"""

import sys
import threading

from PIL import Image

from matl_scale.data.shards.layout import EXTENSIONS
from matl_scale.errors import InputError

MAX_PIXELS = 178_956_970  # where Pillow refuses an image by default
NO_LIMIT = sys.maxsize
NO_BYTES = "it has no bytes, or is missing"
UNKNOWN_KIND = f"it is no image of a known kind: {', '.join(dict.fromkeys(EXTENSIONS.values()))}"
TOO_DEEP = (
    "images should have 8 bits per channel. Got {}: scale its values to 8 bits yourself, by the range that they really have "
    "(for all 16 bits: magick IN -depth 8 OUT)"
)


class BadImage(InputError):
    """An image that cannot be used. The message says why, not which image it is."""


def check_pixels(width: int, height: int, max_pixels: int | None) -> None:
    """Raises `BadImage` if an image has more pixels than a limit, which is None where the image has passed before."""
    if max_pixels is not None and width * height > max_pixels:
        raise BadImage(
            f"it has {width} × {height} = {width * height} pixels, and the limit is {max_pixels}: allow more with "
            "--max-pixels, or scale it down"
        )


def check_mode(mode: str) -> None:
    """Raises `BadImage` if Pillow's mode has integers of 16 or 32 bits, or floats, which a conversion to RGB would clip."""
    if mode[0] in "IF":
        kind = "16-bit grey" if mode.startswith("I;16") else "integers above 255" if mode == "I" else "real numbers"
        raise BadImage(TOO_DEEP.format(kind))


class LiftedPillowLimit:
    """Lifts Pillow's own limit for a `with` block. It differs between formats, warns at half of it, and is a global of the
    process, which the last block of all threads puts back.
    """

    _lock, _num_open, _limit = threading.Lock(), 0, Image.MAX_IMAGE_PIXELS

    def __enter__(self) -> None:
        cls = LiftedPillowLimit
        with cls._lock:
            if not cls._num_open:
                cls._limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            cls._num_open += 1

    def __exit__(self, *error: object) -> None:
        cls = LiftedPillowLimit
        with cls._lock:
            cls._num_open -= 1
            if not cls._num_open:
                Image.MAX_IMAGE_PIXELS = cls._limit
