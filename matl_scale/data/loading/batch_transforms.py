"""Augmentations of a whole uint8 batch, shape `(batch, 3, height, width)`, drawn for each image separately.

torchvision's transforms (v2) draw once per call, so that a draw per image would need a call per image. What these return is what
torchvision's functions of the same name return for one image at a time with the same draw. Draws are NumPy's, on the CPU.
"""

import math

import numpy as np
import torch

from matl_scale.data.images.fit import GREY
from matl_scale.vision import transforms

PADDED_PART = 8
JITTER = 0.4  # brightness, contrast and saturation are multiplied by 1 ± this at most
ERASE_SHARE = 0.5  # of images
# as torchvision's RandomErasing: share of the image's area, and ratio of the sides
ERASED_AREA, ERASED_RATIO = (0.02, 0.33), (0.3, 3.3)
ATTEMPTS = 10
BRIGHTNESS_OF = (
    0.2989,
    0.587,
    0.114,
)  # what R, G and B contribute to a grey image: ITU-R BT.601, as torchvision has it


def crop_padded(images: torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
    """Moves an image by up to an eighth of its sides, at least a pixel, and fills what is then empty by reflection: a crop of the
    padded image."""
    rows, columns = (
        reflect(torch.from_numpy(draw_offsets(len(images), length, generator)), length) for length in images.shape[2:]
    )
    rows, columns = rows.to(images.device)[:, None, :, None], columns.to(images.device)[:, None, None, :]
    return images.gather(2, rows.expand(images.shape)).gather(3, columns.expand(images.shape))


def draw_offsets(count: int, length: int, generator: np.random.Generator) -> np.ndarray:
    """Draws by how many of `length` pixels images are moved, shape `(count, 1)`."""
    padding = min(max(1, length // PADDED_PART), length - 1)
    return generator.integers(-padding, padding + 1, (count, 1))


def reflect(offsets: torch.Tensor, length: int) -> torch.Tensor:
    """Returns which of `length` pixels stand where a row is moved by `offsets`, shape `(batch, 1)`, and reflected at its ends."""
    indices = (offsets + torch.arange(length)).abs()
    return (length - 1) - ((length - 1) - indices).abs()


def flip(images: torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
    """Mirrors half of the images."""
    mirrored = torch.from_numpy(np.flatnonzero(generator.random(len(images)) < 0.5)).to(images.device)
    return images.index_copy(0, mirrored, images.index_select(0, mirrored).flip(-1))


def jitter(images: torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
    """Changes brightness, contrast and saturation, each by a factor of its own per image, in an order drawn for the batch."""
    factors = torch.from_numpy(generator.uniform(1 - JITTER, 1 + JITTER, (3, len(images), 1, 1, 1)))
    factors = factors.to(images.device, torch.float32)
    values = images.float()
    for number in generator.permutation(3).tolist():
        values = (adjust_brightness, adjust_contrast, adjust_saturation)[number](values, factors[number])
    return values.round_().to(torch.uint8)


def adjust_brightness(values: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    return (values * factors).clamp_(0, 255)


def adjust_contrast(values: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """Moves pixels from the image's mean brightness by a factor."""
    return torch.lerp(to_grey(values).mean(dim=(1, 2, 3), keepdim=True), values, factors).clamp_(0, 255)


def adjust_saturation(values: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """Moves colours from grey of the same brightness by a factor."""
    return torch.lerp(to_grey(values), values, factors).clamp_(0, 255)


def to_grey(values: torch.Tensor) -> torch.Tensor:
    """Returns the brightness, shape `(batch, 1, height, width)`."""
    weights = torch.tensor(BRIGHTNESS_OF, dtype=values.dtype, device=values.device)[:, None, None]
    return (values * weights).sum(dim=1, keepdim=True)


def erase(images: torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
    """Covers a rectangle of half of the images with grey (Random Erasing, Zhong et al., AAAI 2020, arXiv 1708.04896)."""
    height, width = images.shape[2:]
    count = len(images)
    areas = height * width * generator.uniform(*ERASED_AREA, (ATTEMPTS, count))
    ratios = np.exp(generator.uniform(math.log(ERASED_RATIO[0]), math.log(ERASED_RATIO[1]), (ATTEMPTS, count)))
    heights, widths = np.rint(np.sqrt(areas * ratios)), np.rint(np.sqrt(areas / ratios))
    fits = (heights < height) & (widths < width)
    first, every = fits.argmax(axis=0), np.arange(count)  # without a fitting one nothing is erased
    chosen = (generator.random(count) < ERASE_SHARE) & fits.any(axis=0)
    heights, widths = np.where(chosen, heights[first, every], 0), np.where(chosen, widths[first, every], 0)
    tops, lefts = (
        np.floor(generator.random(count) * (length - own + 1)) for length, own in ((height, heights), (width, widths))
    )
    rows, columns = (
        torch.from_numpy((np.arange(length) >= start[:, None]) & (np.arange(length) < (start + own)[:, None]))
        for length, start, own in ((height, tops, heights), (width, lefts, widths))
    )
    inside = rows.to(images.device)[:, None, :, None] & columns.to(images.device)[:, None, None, :]
    return images.masked_fill(inside, GREY)


def randaugment(images: torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
    """Applies RandAugment (Cubuk et al., 2020, arXiv 1909.13719) with torchvision's defaults.

    It draws operations, which differ in what they compute, so images are taken one by one.
    """
    transform = transforms.RandAugment()
    with torch.random.fork_rng(devices=[]):  # v2 draws its parameters from the CPU's generator, wherever the images are
        torch.manual_seed(int(generator.integers(2**62)))
        return torch.stack([transform(image) for image in images])
