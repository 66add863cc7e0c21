"""Images as a page shows them: the pixels that a network sees, as data URLs that need no other file."""

import base64

from matl_scale.data.images.array_images import encode_png
from matl_scale.data.images.decode import decode_image
from matl_scale.data.images.fit import CROP, Fit


def draw_as_url(data: bytes, size: int, fit: Fit = CROP) -> str:
    """Returns an encoded image as a data URL of its pixels as `decode_image` returns them; raises `BadImage` likewise."""
    return "data:image/png;base64," + base64.b64encode(encode_png(decode_image(data, size, fit=fit))).decode()
