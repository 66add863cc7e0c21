"""The orientation that a camera notes beside the pixels, as EXIF tag 274 or in XMP, and turning an image upright by it."""

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import ExifTags, Image

UPRIGHT = 1
TURNS = {  # of the stored pixels, for each other orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDES_SWAP = (5, 6, 7, 8)
NOTES = {"exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"}  # Pillow's keys for what may hold an orientation
START_OF_SCAN, APP1, FILL = 0xDA, 0xE1, 0xFF
_changing_warnings = threading.RLock()  # `catch_warnings` changes a global of the process


@contextmanager
def without_warnings() -> Iterator[None]:
    """Keeps Pillow from warning of malformed notes beside the pixels."""
    with _changing_warnings, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def read_orientation(image: Image.Image) -> int:
    """Returns an opened image's orientation, 1 to 8. Without a note, or where it is malformed, the pixels count as upright."""
    if image.format != "TIFF" and not NOTES & image.info.keys():
        return UPRIGHT
    try:
        with without_warnings():
            orientation = image.getexif().get(ExifTags.Base.Orientation, UPRIGHT)
    except Exception:  # Pillow raises many kinds of errors for malformed notes
        return UPRIGHT
    return int(orientation) if orientation in TURNS else UPRIGHT


def turn_upright(image: Image.Image, orientation: int) -> Image.Image:
    return image if orientation == UPRIGHT else image.transpose(TURNS[orientation])


def upright_size(width: int, height: int, orientation: int) -> tuple[int, int]:
    """Returns the width and height of an image that is turned upright."""
    return (height, width) if orientation in SIDES_SWAP else (width, height)


def has_app1(data: bytes) -> bool:
    """Returns whether a JPEG has the segment that holds EXIF or XMP, by the lengths of the segments before its pixels."""
    offset, last = 2, len(data) - 4
    while offset <= last and data[offset] == FILL:
        marker = data[offset + 1]
        if marker == APP1:
            return True
        if marker == START_OF_SCAN:
            return False
        offset += 1 if marker == FILL else 2 + (data[offset + 2] << 8) + data[offset + 3]
    return False
