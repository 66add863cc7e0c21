"""Images as people's cameras, editors and exporters write them: turned, transparent, deep, padded with texts, or broken."""

import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
ORIENTATION_TAG = 0x0112
# what a camera that was held in this way stores of an upright scene
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
SAVING: dict[str, dict[str, object]] = {
    "JPEG": {"quality": 100, "subsampling": 0},
    "PNG": {},
    "WEBP": {"lossless": True, "exact": True},
    "TIFF": {},
}


def scene(width: int = 48, height: int = 36) -> Image.Image:
    """Returns a smooth picture whose corners all differ."""
    coarse = np.random.default_rng(5).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **{**SAVING.get(kind, {}), **options})
    return buffer.getvalue()


def turned(image: Image.Image, kind: str, orientation: int) -> bytes:
    """Encodes a picture as a camera does that was held in this way: turned, with the tag that says so."""
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = orientation
    method = STORED[orientation]
    return encode(image if method is None else image.transpose(method), kind, exif=exif)


def turned_by_xmp(image: Image.Image, kind: str, orientation: int) -> bytes:
    """The same with the note in XMP only, as some editors leave it."""
    method, note = STORED[orientation], f'<x:xmpmeta><rdf:Description tiff:Orientation="{orientation}"/></x:xmpmeta>'
    stored = image if method is None else image.transpose(method)
    if kind != "PNG":
        return encode(stored, kind, xmp=note.encode())
    text = b"XML:com.adobe.xmp\0\0\0\0\0" + note.encode()
    return with_chunks(encode(stored, kind), (b"iTXt", text))


def transparent_images() -> dict[str, tuple[bytes, np.ndarray]]:
    """Returns images of every mode that can be transparent, by name, each with the pixels that white paper shows."""
    image = scene()
    alpha = np.tile(np.linspace(0, 255, image.width).astype(np.uint8), (image.height, 1))
    colour = image.convert("RGBA")
    colour.putalpha(Image.fromarray(alpha))
    grey = image.convert("L")
    grey_alpha = Image.merge("LA", (grey, Image.fromarray(alpha)))
    palette = image.quantize(16)
    index, colours = palette.getpixel((0, 0)), np.asarray(palette)
    hole = colours == index
    shown = np.where(hole[..., None], 255, np.asarray(palette.convert("RGB")))
    steps = bytes(range(0, 256, 17))
    of_palette = over_white(np.asarray(palette.convert("RGB")), np.frombuffer(steps, np.uint8)[colours])
    key, grey_key = image.getpixel((5, 5)), grey.getpixel((5, 5))
    keyed = np.where((np.asarray(image) == key).all(-1, keepdims=True), 255, np.asarray(image))
    grey_keyed = np.where(np.asarray(grey) == grey_key, 255, np.asarray(grey))
    colour_shown = over_white(np.asarray(image), alpha)
    grey_shown = over_white(np.asarray(grey.convert("RGB")), alpha)
    return {
        "RGBA.png": (encode(colour, "PNG"), colour_shown),
        "RGBA.webp": (encode(colour, "WEBP"), colour_shown),
        "RGBA.tif": (encode(colour, "TIFF"), colour_shown),
        "LA.png": (encode(grey_alpha, "PNG"), grey_shown),
        "LA.tif": (encode(grey_alpha, "TIFF"), grey_shown),
        "P.png": (encode(palette, "PNG", transparency=index), shown),
        "P.gif": (encode(palette, "GIF", transparency=index), shown),
        "PA.png": (encode(palette, "PNG", transparency=steps), of_palette),
        "RGB.png": (encode(image, "PNG", transparency=key), keyed),
        "L.png": (encode(grey, "PNG", transparency=grey_key), np.repeat(grey_keyed[..., None], 3, axis=2)),
    }


def over_white(pixels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Lays pixels, shape `(height, width, 3)`, on white by their opacity, shape `(height, width)`, 0 to 255."""
    share = alpha[..., None] / 255
    return np.rint(pixels * share + 255 * (1 - share))


def deep_images() -> dict[str, bytes]:
    """Returns images with more than 8 bits per channel, as microscopes, depth cameras and X-ray archives write them."""
    values = np.arange(64, dtype=np.uint16).reshape(8, 8) * 60
    rows = b"".join(b"\0" + np.stack([row, row], axis=1).astype(">u2").tobytes() for row in values)
    return {
        "grey.png": encode(Image.fromarray(values), "PNG"),
        "grey_alpha.png": png_of((8, 8, 16, 4), rows),
        "grey.tif": encode(Image.fromarray(values), "TIFF"),
        "grey.pgm": b"P5 8 8 65535\n" + values.astype(">u2").tobytes(),
        "wide.tif": encode(Image.fromarray(values.astype(np.int32)), "TIFF"),
        "float.tif": encode(Image.fromarray(values.astype(np.float32)), "TIFF"),
    }


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def chunks_of(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yields the type and content of each chunk."""
    offset = len(PNG_SIGNATURE)
    while offset < len(png):
        size, kind = struct.unpack_from(">I4s", png, offset)
        yield kind, png[offset + 8 : offset + 8 + size]
        offset += size + 12


def join_chunks(chunks: list[tuple[bytes, bytes]]) -> bytes:
    """Joins chunks to a PNG with right checksums."""
    return PNG_SIGNATURE + b"".join(chunk(kind, content) for kind, content in chunks)


def with_chunks(png: bytes, *added: tuple[bytes, bytes], before: bytes = b"IDAT") -> bytes:
    """Adds chunks to a PNG before another one."""
    chunks = list(chunks_of(png))
    index = [kind for kind, _ in chunks].index(before)
    return join_chunks([*chunks[:index], *added, *chunks[index:]])


def png_of(header: tuple[int, int, int, int], rows: bytes, interlaced: int = 0) -> bytes:
    """Builds a PNG of a header (width, height, depth, colour type) and filtered rows, which need not fit to it."""
    start = struct.pack(">IIBBBBB", *header, 0, 0, interlaced)
    return join_chunks([(b"IHDR", start), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")])
