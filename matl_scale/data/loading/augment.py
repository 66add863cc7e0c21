"""Augmentation of a batch on the training device, with torchvision's transforms (v2), drawn for each image separately."""

from collections.abc import Callable
from typing import Literal

import torch

from matl_scale.vision import transforms

Augment = Literal["none", "crop", "flip", "crop-flip", "randaugment"]

Transform = Callable[[torch.Tensor], torch.Tensor]


def build_augment(name: Augment, size: int) -> Transform | None:
    """Returns the transform of one uint8 image, shape `(3, size, size)`; None for `none`.

    `randaugment` is RandAugment (Cubuk et al., 2020, arXiv 1909.13719) with torchvision's defaults, after `crop-flip`.
    """
    flip = [transforms.RandomHorizontalFlip()]
    crop = [transforms.RandomCrop(size, padding=max(1, size // 8), padding_mode="reflect")]
    steps = {
        "none": [],
        "crop": crop,
        "flip": flip,
        "crop-flip": crop + flip,
        "randaugment": [*crop, *flip, transforms.RandAugment()],
    }
    return transforms.Compose(steps[name]) if steps[name] else None


def augment_batch(images: torch.Tensor, transform: Transform | None, seed: int) -> torch.Tensor:
    """Applies `transform` to each image of a uint8 batch, shape `(batch, 3, size, size)`; `seed` fixes every draw."""
    if transform is None:
        return images
    with torch.random.fork_rng(devices=[]):  # v2 draws its parameters from the CPU's generator, wherever the images are
        torch.manual_seed(seed)
        return torch.stack([transform(image) for image in images])
