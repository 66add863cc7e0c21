"""Decodes images: to upright RGB pixels on a white background, and to squares. One routine for all who read images. No torch.

JPEG is decoded by simplejpeg (libjpeg-turbo), which scales while it decodes and is therefore faster than Pillow. It reports
truncated files, and works with any build of torch. Pillow decodes everything else.
"""

import io
from typing import NamedTuple

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

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


class UprightImage(NamedTuple):
    """An image as everything after decoding sees it, and how it was stored."""

    pixels: Image.Image | np.ndarray  # RGB, or one channel of an image that is stored grey; a JPEG may be scaled down
    extension: str  # of its format
    width: int  # in pixels, upright
    height: int
    orientation: int  # EXIF's number of how the pixels were stored, 1 for upright


def decode_image(data: bytes, size: int, max_pixels: int | None = None) -> np.ndarray:
    """Decodes an image to uint8 RGB, shape `(size, size, 3)`. An image of another shape is scaled and centre-cropped.

    Args:
        data: The encoded image.
        size: Side length in pixels.
        max_pixels: More pixels than these are refused. None for an image of a shard set, which has passed the gate before: then
            its size and the number of its rows are not looked at again.

    Raises:
        BadImage: The image is damaged, or one that the gate refuses.
    """
    jpeg = read_jpeg(data, size, max_pixels)
    return to_square(read_with_pillow(data, max_pixels).pixels if jpeg is None else jpeg[0], size)


def read_image(data: bytes, min_side: int, max_pixels: int | None) -> UprightImage:
    """Decodes as `decode_image` does, and tells what kind of image it was. The sides of the pixels are at least `min_side` if
    the image's are; raises `BadImage` likewise.
    """
    jpeg = read_jpeg(data, min_side, max_pixels)
    if jpeg is None:
        return read_with_pillow(data, max_pixels)
    pixels, orientation = jpeg
    height, width, *_ = simplejpeg.decode_jpeg_header(data)
    return UprightImage(pixels, "jpg", *upright_size(width, height, orientation), orientation)


def read_jpeg(data: bytes, min_side: int, max_pixels: int | None) -> tuple[np.ndarray, int] | None:
    """Decodes a JPEG, scaled down as far as `min_side` allows. Returns its upright pixels, shape `(height, width, 3)`, and the
    orientation that they were stored in; None leaves the image to Pillow.
    """
    if not data.startswith(JPEG_START):
        return None
    try:
        if max_pixels is not None:
            height, width, *_ = simplejpeg.decode_jpeg_header(data)
            check_pixels(width, height, max_pixels)
        pixels: np.ndarray = simplejpeg.decode_jpeg(data, min_height=min_side, min_width=min_side, min_factor=1)
    except BadImage:
        raise
    except ValueError:
        return None  # simplejpeg rejects harmless flaws and CMYK
    orientation = orientation_of_jpeg(data)
    if orientation != UPRIGHT:
        pixels = np.asarray(turn_upright(Image.fromarray(pixels), orientation))
    return pixels, orientation


def orientation_of_jpeg(data: bytes) -> int:
    """Reads the orientation of a JPEG, from its header."""
    if not has_app1(data):
        return UPRIGHT
    try:
        with LiftedPillowLimit(), without_warnings(), Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            return read_orientation(image)
    except Exception:  # simplejpeg has decoded it: only what is beside the pixels is malformed
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


def to_square(pixels: Image.Image | np.ndarray, size: int) -> np.ndarray:
    """Scales and centre-crops pixels to uint8 RGB, shape `(size, size, 3)`."""
    if isinstance(pixels, np.ndarray):
        if pixels.shape[:2] == (size, size):
            return pixels
        pixels = Image.fromarray(pixels)
    square = fit_square(pixels, size)  # grey is scaled in one channel: the same values in a third of the time
    return np.asarray(square if square.mode == "RGB" else square.convert("RGB"))


def fit_square(image: Image.Image, size: int) -> Image.Image:
    """Scales the shorter side to `size` pixels and crops the middle of the longer one."""
    if image.size == (size, size):
        return image
    side = min(image.size)
    left, top = ((length - side) / 2 for length in image.size)
    return image.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))
