"""How an image of any shape becomes a square: squashed, cropped or padded (`data.fit`). No torch."""

from collections.abc import Callable
from typing import Literal

from PIL import Image

Fit = Literal["crop", "squash", "pad"]
FITS: tuple[Fit, ...] = ("crop", "squash", "pad")
CROP: Fit = "crop"
# of bars beside an image, and of what augmentation covers: the mean brightness of ImageNet's photos, about 0 for a network
GREY = 114

# of an image's upright width and height, the least to which it may be scaled down before it is fitted
Needed = Callable[[int, int], tuple[int, int]]


def needed_for(fit: Fit, size: int) -> Needed:
    """Returns the width and height that an image needs, given its own, to be fitted into a square of `size` pixels per side
    without being enlarged."""
    return (lambda width, height: padded_size(width, height, size)) if fit == "pad" else lambda _, __: (size, size)


def padded_size(width: int, height: int, size: int) -> tuple[int, int]:
    """Returns the width and height of an image whose longer side is scaled to `size`."""
    longer = max(width, height)
    return max(1, round(width * size / longer)), max(1, round(height * size / longer))


def fit_square(image: Image.Image, size: int, fit: Fit = CROP) -> Image.Image:
    """Makes a square of `size` pixels per side of an image, in RGB or one channel.

    `crop` scales the shorter side to that and takes the middle of the longer one. `squash` scales both sides to it. `pad` scales
    the longer side to it and puts the image in the middle of a grey square.
    """
    if image.size == (size, size):
        return image
    width, height = image.size
    if fit == "squash":
        return image.resize((size, size), Image.Resampling.BILINEAR)
    if fit == "pad":
        inner = padded_size(width, height, size)
        square = Image.new(image.mode, (size, size), GREY if image.mode == "L" else (GREY,) * 3)
        square.paste(image.resize(inner, Image.Resampling.BILINEAR), ((size - inner[0]) // 2, (size - inner[1]) // 2))
        return square
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return image.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))
