"""Random resized crops: a random part of each image, of random shape, scaled to a square (Szegedy et al., CVPR 2015, arXiv
1409.4842). The part is cut out of the original image while it is decoded, not out of a square."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch.nn import functional

from matl_scale.data.images.decode import Box, decode_regions
from matl_scale.seeds import derive_seed

RATIOS = (3 / 4, 4 / 3)  # width ÷ height of a part, as torchvision's RandomResizedCrop
ATTEMPTS = 10


@dataclass(frozen=True, kw_only=True)
class ResizedCrops:
    """Decodes random parts of images. What is drawn depends on the seed, the batch's index and the place in the batch alone."""

    seed: int
    min_area: float  # the smallest share of an image's area that a part has

    def draw(self, batch_index: int, count: int) -> np.ndarray:
        """Draws what the parts of a batch depend on: uniform numbers from 0 to 1, shape `(count, ATTEMPTS, 4)`."""
        return np.random.default_rng(derive_seed(self.seed, "resized-crop", batch_index)).random((count, ATTEMPTS, 4))

    def decode(self, data: bytes, draws: Sequence[np.ndarray], size: int) -> list[torch.Tensor]:
        """Decodes parts of an image to uint8, each of shape `(3, size, size)`; `draws` are those of each part, shape
        `(ATTEMPTS, 4)`. The image is decoded once.

        Raises:
            BadImage: The image is damaged.
        """
        boxes = [partial(choose_box, drawn, self.min_area) for drawn in draws]
        return [resize(region, size) for region in decode_regions(data, boxes, size)]


def choose_box(draws: np.ndarray, min_area: float, width: int, height: int) -> Box:
    """Returns the part of an image of so many pixels: the first attempt that lies inside, as torchvision's RandomResizedCrop.

    An attempt has a share of the area that is uniform from `min_area` to 1, and a ratio of sides that is log-uniform in `RATIOS`.
    Where none lies inside, the middle of the image is taken, as large as the ratios allow.
    """
    smallest, largest = map(math.log, RATIOS)
    for area_draw, ratio_draw, left_draw, top_draw in draws.tolist():
        area = width * height * (min_area + (1 - min_area) * area_draw)
        ratio = math.exp(smallest + (largest - smallest) * ratio_draw)
        part_width, part_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < part_width <= width and 0 < part_height <= height:
            left, top = int((width - part_width + 1) * left_draw), int((height - part_height + 1) * top_draw)
            return Box(left, top, part_width, part_height)
    part_width = min(width, max(1, round(height * RATIOS[1])))
    part_height = min(height, max(1, round(width / RATIOS[0])))
    return Box((width - part_width) // 2, (height - part_height) // 2, part_width, part_height)


def resize(region: np.ndarray, size: int) -> torch.Tensor:
    """Scales uint8 pixels, shape `(height, width, 3)`, to `(3, size, size)`: bilinear over all pixels that are covered.

    torch does this several times faster than Pillow; their results differ by rounding.
    """
    pixels = torch.from_numpy(np.array(region, order="C")).permute(2, 0, 1)[
        None
    ]  # a copy: Pillow's pixels are read-only
    return functional.interpolate(pixels, (size, size), mode="bilinear", antialias=True)[0]
