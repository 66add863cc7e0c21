"""Checks that training can decode an image, and resizes it if asked. Without resizing, its bytes stay as they are."""

import hashlib
import io
import struct
from typing import NamedTuple
from zlib import crc32

from PIL import Image, UnidentifiedImageError

from matl_scale.data.images.decode import fit_square
from matl_scale.data.shards.layout import DIGEST_BYTES, EXTENSIONS, OPENED_FORMATS
from matl_scale.errors import InputError

PNG_START = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
GREY, GREY_ALPHA = 0, 4
CHUNK_START = struct.Struct(">I4s").unpack_from
CHECKSUM = struct.Struct(">I").unpack_from
IMAGE_HEADER = struct.Struct(">IIBB").unpack_from


class CheckedImage(NamedTuple):
    """An image that decodes: its bytes, file extension, width and height in pixels."""

    data: bytes
    extension: str
    width: int
    height: int


class BadImage(InputError):
    """An image that cannot be used. The message says why, not which image it is."""


def check_image(data: bytes, resize: int | None = None, thorough: bool = False) -> CheckedImage:
    """Checks an image without decoding more than necessary. With `resize`, scales and centre-crops it to a square.

    A PNG is intact if the checksums of its chunks are right, which is much faster than decoding. In a JPEG, every
    coefficient is read but only the smallest size is computed. Everything else is decoded.

    Args:
        data: The encoded image.
        resize: Side length in pixels; JPEG is encoded again at quality 95, everything else as PNG.
        thorough: Whether to decode PNG as well.

    Raises:
        BadImage: The image is damaged, or of a kind that training would change.
    """
    if not data:
        raise BadImage("it has no bytes, or is missing")
    if resize is None and not thorough and data.startswith(PNG_START):
        return check_png(data)
    try:
        with Image.open(io.BytesIO(data), formats=OPENED_FORMATS) as image:
            extension = EXTENSIONS[image.format or ""]
            width, height = image.size
            if extension == "jpg" and resize is None:
                image.draft("L", (1, 1))
            image.load()
            if image.mode[0] in "IF":
                raise BadImage(f"images should have 8 bits per channel, and training would clip its mode {image.mode}")
            if resize is None or image.size == (resize, resize):
                return CheckedImage(data, extension, width, height)
            whole = image if image.mode in ("L", "RGB") else image.convert("RGB")
            square = fit_square(whole, resize, Image.Resampling.BICUBIC)
    except BadImage:
        raise
    except UnidentifiedImageError as error:  # its text contains a memory address
        raise BadImage(f"it is no image of a known kind: {', '.join(EXTENSIONS)}") from error
    except Exception as error:  # Pillow's codecs raise many kinds of errors for damaged data
        raise BadImage(f"it cannot be decoded ({len(data)} bytes): {error}") from error
    buffer = io.BytesIO()
    if extension == "jpg":
        square.save(buffer, "JPEG", quality=95)
    else:
        extension = "png"
        square.save(buffer, "PNG")
    return CheckedImage(buffer.getvalue(), extension, resize, resize)


def check_png(data: bytes) -> CheckedImage:
    """Checks the chunks of a PNG from IHDR to IEND: length, type, content and CRC-32 (PNG specification, 5.3)."""
    length, offset, kind, pixels = len(data), 8, b"", 0
    while kind != b"IEND":
        if offset + 12 > length:
            raise BadImage(f"it is cut off after {length} bytes")
        size, kind = CHUNK_START(data, offset)
        end = offset + 8 + size
        if end + 4 > length:
            raise BadImage(f"it is cut off after {length} bytes")
        if crc32(data[offset + 4 : end]) != CHECKSUM(data, end)[0]:
            raise BadImage(f"it cannot be decoded: the checksum of its chunk {kind!r} is wrong")
        if kind == b"IDAT":
            pixels += size
        offset = end + 4
    width, height, depth, colour = IMAGE_HEADER(data, 16)
    if depth == 16 and colour in (GREY, GREY_ALPHA):
        raise BadImage("images should have 8 bits per channel, and training would clip its 16")
    if not (width and height and pixels):
        raise BadImage("it cannot be decoded: it has no pixels")
    if Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS:
        raise BadImage(f"it has {width} × {height} pixels, more than Pillow decodes")
    return CheckedImage(data, "png", width, height)


def digest_image(data: bytes) -> bytes:
    """Returns the first 16 bytes of the SHA-256 of an image's bytes."""
    return hashlib.sha256(data).digest()[:DIGEST_BYTES]
