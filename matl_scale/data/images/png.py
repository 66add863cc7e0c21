"""The chunks of a PNG: what Pillow does not look at, and two ways around Pillow.

Pillow compares no checksum of pixels, and leaves rows black that are missing at the end. A plain PNG is known to be sound without
Pillow, in less than half of the time. Texts whose size Pillow refuses are left out.
"""

import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import TypeAlias

from matl_scale.data.images.gate import TOO_DEEP, BadImage, check_pixels

Chunk: TypeAlias = tuple[bytes, int, int]  # its type, and where its content starts and ends
PNG_START = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
CHUNKS_START = 8
CHUNK_START = struct.Struct(">I4s").unpack_from
CHECKSUM = struct.Struct(">I").unpack_from
IMAGE_HEADER = struct.Struct(">IIBB3s").unpack_from
GREY, GREY_ALPHA = 0, 4
NUM_CHANNELS = {GREY: 1, 2: 3, 3: 1, GREY_ALPHA: 2, 6: 4}  # by colour type
DIRECT_COLOURS = (GREY, 2, GREY_ALPHA, 6)  # without a palette
# the passes of a PNG: the column and row where each begins, and its steps (PNG specification, 8.2)
WHOLE = ((0, 0, 1, 1),)
ADAM7 = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)
NUM_FILTERS = 5
# chunks that cannot change the pixels or make Pillow refuse them, with their size
HARMLESS = {b"sRGB": 1, b"gAMA": 4, b"cHRM": 32, b"pHYs": 9, b"tIME": 7}
TEXTS = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
ORIENTATION_TEXTS = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0")


def read_chunks(data: bytes) -> Iterator[Chunk]:
    """Yields the chunks up to IEND. A CRC-32 follows the content of each (PNG specification, 5.3).

    Raises:
        BadImage: A chunk is cut off, or its checksum is wrong.
    """
    length, offset, kind = len(data), CHUNKS_START, b""
    while kind != b"IEND":
        if offset + 12 > length:
            raise BadImage(f"it is cut off after {length} bytes")
        size, kind = CHUNK_START(data, offset)
        end = offset + 8 + size
        if end + 4 > length:
            raise BadImage(f"it is cut off after {length} bytes")
        if zlib.crc32(data[offset + 4 : end]) != CHECKSUM(data, end)[0]:
            raise BadImage(f"it cannot be decoded: the checksum of its chunk {kind!r} is wrong")
        yield kind, offset + 8, end
        offset = end + 4


def check_png(data: bytes, max_pixels: int | None) -> list[Chunk]:
    """Returns what `read_chunks` yields; raises `BadImage` for too many pixels and for 16-bit grey with alpha as well."""
    chunks = list(read_chunks(data))
    width, height, depth, colour, _ = IMAGE_HEADER(data, 16)
    check_pixels(width, height, max_pixels)
    if depth == 16 and colour in (GREY, GREY_ALPHA):
        raise BadImage(TOO_DEEP.format("16-bit grey"))
    return chunks


def count_row_bytes(data: bytes) -> int:
    """Returns how many bytes the pixels of a PNG should inflate to, by its header; each row begins with its filter's number."""
    width, height, depth, colour, methods = IMAGE_HEADER(data, 16)
    num_bytes = 0
    for left, top, step_x, step_y in ADAM7 if methods[2] else WHOLE:
        columns, rows = -(-(width - left) // step_x), -(-(height - top) // step_y)
        if columns > 0 and rows > 0:
            num_bytes += rows * (1 + -(-columns * depth * NUM_CHANNELS.get(colour, 0) // 8))
    return num_bytes


def inflate_rows(data: bytes, chunks: Sequence[Chunk]) -> bytes | None:
    """Returns the filtered rows of a PNG; None if they do not inflate to as many bytes as its header says."""
    num_bytes, inflater = count_row_bytes(data), zlib.decompressobj()
    try:
        pixels = b"".join(data[start:end] for kind, start, end in chunks if kind == b"IDAT")
        rows = inflater.decompress(pixels, num_bytes + 1)
    except zlib.error:
        return None
    return rows if inflater.eof and len(rows) == num_bytes else None


def check_rows(data: bytes) -> None:
    """Raises `BadImage` if rows are missing at the end of a PNG, which Pillow leaves black without a word."""
    if inflate_rows(data, list(read_chunks(data))) is None:
        raise BadImage("it cannot be decoded: its pixels do not inflate to as many rows as it should have")


def size_of_plain_png(data: bytes, chunks: Sequence[Chunk]) -> tuple[int, int] | None:
    """Returns the width and height of a PNG whose pixels are certainly all there. None leaves the verdict to Pillow.

    It has 8 bits per channel, no palette, no interlacing, no chunk that needs a look; its pixels inflate to the right number
    of bytes, and each row starts with a filter that exists.
    """
    width, height, depth, colour, methods = IMAGE_HEADER(data, 16)
    kinds = [kind for kind, _, _ in chunks]
    first = kinds.index(b"IDAT") if b"IDAT" in kinds else 0
    is_plain = depth == 8 and colour in DIRECT_COLOURS and methods == b"\0\0\0" and width and height and first
    if not is_plain or any(kind != b"IDAT" for kind in kinds[first:-1]):
        return None
    if any(HARMLESS.get(kind) != end - start for kind, start, end in chunks[1:first]):
        return None
    rows = inflate_rows(data, chunks)
    return (width, height) if rows and max(rows[:: len(rows) // height]) < NUM_FILTERS else None


def without_texts(data: bytes, keep: tuple[bytes, ...] = ORIENTATION_TEXTS) -> bytes:
    """Returns a PNG without its texts and colour profile, except texts that begin with one of `keep`."""
    kept = [data[:CHUNKS_START]]
    for kind, start, end in read_chunks(data):
        if kind not in TEXTS or data.startswith(keep, start, end):
            kept.append(data[start - 8 : end + 4])
    return b"".join(kept)
