"""Decodes images: to upright RGB pixels on a white background, to squares, and to regions. One routine for all who read images.
No torch.

JPEG is decoded by simplejpeg (libjpeg-turbo), which scales while it decodes and is therefore faster than Pillow. It reports
truncated files, and works with any build of torch. Pillow decodes everything else.
"""

import io
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

from matl_scale.data.images.fit import CROP, Fit, Needed, fit_square, needed_for
from matl_scale.data.images.gate import (
    NO_BYTES,
    UNKNOWN_KIND,
    BadImage,
    LiftedPillowLimit,
    check_mode,
    check_pixels,
)
from matl_scale.data.images.orientation import (
    UPRIGHT,
    has_app1,
    read_orientation,
    turn_upright,
    upright_size,
    without_warnings,
)
from matl_scale.data.images.png import ORIENTATION_TEXTS, PNG_START, check_png, check_rows, without_texts
from matl_scale.data.shards.layout import EXTENSIONS, OPENED_FORMATS
from matl_scale.errors import one_line

PNG_ONLY = ("PNG",)
JPEG_START = b"\xff\xd8\xff"
BACKGROUND = (255, 255, 255, 255)  # of transparent pixels
# of a region, a JPEG is scaled down by half or more: by 7/8 to 5/8, decoding takes longer than the whole at full size
REGION_FACTOR = 2


class UprightImage(NamedTuple):
    """An image as everything after decoding sees it, and how it was stored."""

    pixels: Image.Image | np.ndarray  # RGB, or one channel of an image that is stored grey; a JPEG may be scaled down
    extension: str  # of its format
    width: int  # in pixels, upright
    height: int
    orientation: int  # EXIF's number of how the pixels were stored, 1 for upright


class Box(NamedTuple):
    """A region of an upright image, in pixels."""

    left: int
    top: int
    width: int
    height: int


def decode_image(data: bytes, size: int, max_pixels: int | None = None, fit: Fit = CROP) -> np.ndarray:
    """Decodes an image to uint8 RGB, shape `(size, size, 3)`. An image of another shape is scaled and fitted (see `fit_square`).

    Args:
        data: The encoded image.
        size: Side length in pixels.
        max_pixels: More pixels than these are refused. None for an image of a shard set, which has passed the gate before: then
            its size and the number of its rows are not looked at again.
        fit: How an image of another shape becomes a square.

    Raises:
        BadImage: The image is damaged, or one that the gate refuses.
    """
    return to_square(read_image(data, needed_for(fit, size), max_pixels).pixels, size, fit)


def decode_regions(data: bytes, choose_boxes: Sequence[Callable[[int, int], Box]], size: int) -> list[np.ndarray]:
    """Decodes regions of an image of a shard set to uint8 RGB, each of shape `(height, width, 3)`.

    A JPEG is decoded once, at the smallest scale at which every region still has `size` pixels per side, if that saves time; the
    regions are then smaller, to the nearest pixel. Everything else is decoded as it is.

    Args:
        data: The encoded image.
        choose_boxes: Return the regions for the upright image's width and height; called more than once.
        size: The side length in pixels to which the regions will be scaled.

    Raises:
        BadImage: The image is damaged, or one that the gate refuses.
    """

    def needed(width: int, height: int) -> tuple[int, int]:
        boxes = [choose_box(width, height) for choose_box in choose_boxes]
        shares = (max(size / box.width for box in boxes), max(size / box.height for box in boxes))
        return math.ceil(width * min(1, shares[0])), math.ceil(height * min(1, shares[1]))

    image = read_image(data, needed, None, min_factor=REGION_FACTOR)
    return [cut_region(image, choose_box(image.width, image.height)) for choose_box in choose_boxes]


def cut_region(image: UprightImage, box: Box) -> np.ndarray:
    """Returns a region of an image as uint8 RGB, shape `(height, width, 3)`, smaller where the pixels are scaled down."""
    pixels = image.pixels
    if not isinstance(pixels, np.ndarray):
        region = pixels.crop((box.left, box.top, box.left + box.width, box.top + box.height))
        return np.asarray(region if region.mode == "RGB" else region.convert("RGB"))
    rows, columns = (
        scaled_range(start, part, decoded / length)
        for start, part, decoded, length in (
            (box.top, box.height, pixels.shape[0], image.height),
            (box.left, box.width, pixels.shape[1], image.width),
        )
    )
    return pixels[rows, columns]


def scaled_range(start: int, length: int, scale: float) -> slice:
    """Returns a range of an image's pixels in the image that is scaled down, to the nearest pixel."""
    first = round(start * scale)
    return slice(first, max(first + 1, round((start + length) * scale)))


def read_image(data: bytes, needed: Needed, max_pixels: int | None, min_factor: float = 1) -> UprightImage:
    """Decodes as `decode_image` does, but to no square, and tells what kind of image it was.

    The pixels of a JPEG may be scaled down, but not below the width and height that are `needed` of it, and not by less than
    `min_factor`. Raises `BadImage` likewise.
    """
    return read_jpeg(data, needed, max_pixels, min_factor) or read_with_pillow(data, max_pixels)


def read_jpeg(data: bytes, needed: Needed, max_pixels: int | None, min_factor: float) -> UprightImage | None:
    """Decodes a JPEG as `read_image` does; None leaves the image to Pillow."""
    if not data.startswith(JPEG_START):
        return None
    try:
        stored_height, stored_width, *_ = simplejpeg.decode_jpeg_header(data)
        if max_pixels is not None:
            check_pixels(stored_width, stored_height, max_pixels)
        orientation = orientation_of_jpeg(data)
        width, height = upright_size(stored_width, stored_height, orientation)
        min_width, min_height = upright_size(*needed(width, height), orientation)
        pixels: np.ndarray = simplejpeg.decode_jpeg(
            data, min_height=min_height, min_width=min_width, min_factor=min_factor
        )
    except BadImage:
        raise
    except ValueError:
        return None  # simplejpeg rejects harmless flaws and CMYK
    if orientation != UPRIGHT:
        pixels = np.asarray(turn_upright(Image.fromarray(pixels), orientation))
    return UprightImage(pixels, "jpg", width, height, orientation)


def orientation_of_jpeg(data: bytes) -> int:
    """Reads the orientation of a JPEG, from its header."""
    if not has_app1(data):
        return UPRIGHT
    try:
        with LiftedPillowLimit(), without_warnings(), Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            return read_orientation(image)
    except Exception:  # simplejpeg can read its header: only what is beside the pixels is malformed
        return UPRIGHT


def read_with_pillow(data: bytes, max_pixels: int | None) -> UprightImage:
    """Decodes an image of any format."""
    if not data:
        raise BadImage(NO_BYTES)
    try:
        with LiftedPillowLimit():
            return (
                _read_png(data, max_pixels) if data.startswith(PNG_START) else _read(data, OPENED_FORMATS, max_pixels)
            )
    except BadImage:
        raise
    except UnidentifiedImageError as error:  # its text contains a memory address
        raise BadImage(UNKNOWN_KIND) from error
    except Exception as error:  # Pillow's codecs raise many kinds of errors for damaged data
        raise BadImage(f"it cannot be decoded ({len(data)} bytes): {one_line(error)}") from error


def _read_png(data: bytes, max_pixels: int | None) -> UprightImage:
    """Reads the pixels of a PNG even if Pillow refuses the size of a text or a profile, which say nothing about them."""
    check_png(data, max_pixels)
    for keep in (None, ORIENTATION_TEXTS):
        try:
            return _read(data if keep is None else without_texts(data, keep), PNG_ONLY, max_pixels)
        except ValueError as error:
            if isinstance(error, BadImage):
                raise
    return _read(without_texts(data, ()), PNG_ONLY, max_pixels)


def _read(data: bytes, formats: tuple[str, ...], max_pixels: int | None) -> UprightImage:
    with Image.open(io.BytesIO(data), formats=formats) as image:
        check_pixels(image.width, image.height, max_pixels)
        check_mode(image.mode)
        extension = EXTENSIONS[image.format or ""]
        turned_by_pillow = image.format == "TIFF"
        orientation = read_orientation(image) if turned_by_pillow else UPRIGHT
        image.load()
        if max_pixels is not None and image.format == "PNG" and may_lack_rows(image):
            check_rows(data)
        if not turned_by_pillow:  # a PNG may hold its note behind the pixels
            orientation = read_orientation(image)
        pixels = turn_upright(on_background(image), UPRIGHT if turned_by_pillow else orientation)
    return UprightImage(pixels, extension, *pixels.size, orientation)


def may_lack_rows(png: Image.Image) -> bool:
    """Returns whether the last row of a loaded PNG is all zeros, as Pillow leaves it if it is missing, or is not simply last."""
    width, height = png.size
    return bool(png.info.get("interlace")) or png.crop((0, height - 1, width, height)).getbbox() is None


def on_background(image: Image.Image) -> Image.Image:
    """Converts to RGB, unless the image is grey; what is transparent shows white, whatever colour is stored below it."""
    if not image.has_transparency_data:
        return image if image.mode in ("RGB", "L") else image.convert("RGB")
    background = Image.new("RGBA", image.size, BACKGROUND)
    return Image.alpha_composite(background, image.convert("RGBA")).convert("RGB")


def to_square(pixels: Image.Image | np.ndarray, size: int, fit: Fit = CROP) -> np.ndarray:
    """Scales and fits pixels to uint8 RGB, shape `(size, size, 3)`."""
    if isinstance(pixels, np.ndarray):
        if pixels.shape[:2] == (size, size):
            return pixels
        pixels = Image.fromarray(pixels)
    square = fit_square(pixels, size, fit)  # grey is scaled in one channel: the same values in a third of the time
    return np.asarray(square if square.mode == "RGB" else square.convert("RGB"))
