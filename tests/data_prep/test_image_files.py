"""One image: whether it decodes, and the tar header that is written before it."""

import io
import tarfile

import numpy as np
import pytest

from data_prep.image_check import check_image
from data_prep.writing.tar import build_headers
from matl_scale.data.images.array_images import encode_png
from matl_scale.data.images.gate import BadImage


def test_headers_are_those_of_tarfile() -> None:
    names = ["000000000.png", "000000001.npy", "123456789.jpg"]
    sizes = np.array([0, 513, 8 * 2**30 - 1])
    for name, size, header in zip(names, sizes.tolist(), build_headers(names, sizes), strict=True):
        member = tarfile.TarInfo(name)
        member.size, member.mode = size, 0o644
        assert header.tobytes() == member.tobuf(tarfile.USTAR_FORMAT)


def test_png_is_checked_whole() -> None:
    data = encode_png(np.random.default_rng(0).integers(0, 256, (9, 11, 3), dtype=np.uint8))
    assert check_image(data)[1:4] == ("png", 11, 9)
    for cut in range(30, len(data), 37):
        with pytest.raises(BadImage):
            check_image(data[:cut])
    for offset in range(16, len(data) - 12, 5):
        flipped = bytearray(data)
        flipped[offset] ^= 4
        with pytest.raises(BadImage):
            check_image(bytes(flipped))


def test_a_jpeg_that_is_cut_off_is_bad() -> None:
    from PIL import Image

    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG")
    assert check_image(buffer.getvalue())[1:4] == ("jpg", 30, 40)
    for share in (0.3, 0.6, 0.95):
        with pytest.raises(BadImage):
            check_image(buffer.getvalue()[: int(share * len(buffer.getvalue()))])


def test_no_image_starts_a_program() -> None:
    with pytest.raises(BadImage, match="it is no image of a known kind"):
        check_image(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")
