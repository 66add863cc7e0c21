"""What `data.augment` names: the augmentation of images, drawn for each image separately.

A resized crop is taken while an image is decoded (see `resized_crop`); everything else is done with whole batches on the training
device.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from matl_scale.automatic import AUTO
from matl_scale.data.loading import batch_transforms
from matl_scale.errors import InputError, check_choice
from matl_scale.seeds import derive_seed

RESIZED_CROP, CROP = "resized-crop", "crop"
STEPS = (RESIZED_CROP, CROP, "flip", "jitter", "randaugment", "erase")  # in the order in which they are applied
COMBINATIONS = {
    "none": (),
    "crop-flip": (CROP, "flip"),
    "resized-crop-flip": (RESIZED_CROP, "flip"),
    "randaugment": (CROP, "flip", "randaugment"),
}

BatchTransform = Callable[[torch.Tensor, np.random.Generator], torch.Tensor]
BATCH_TRANSFORMS: dict[str, BatchTransform] = {
    CROP: batch_transforms.crop_padded,
    "flip": batch_transforms.flip,
    "jitter": batch_transforms.jitter,
    "randaugment": batch_transforms.randaugment,
    "erase": batch_transforms.erase,
}


def choose_steps(setting: Sequence[str] | str) -> tuple[str, ...]:
    """Returns the steps of `data.augment`, in the order in which they are applied.

    Raises:
        InputError: A step is unknown, or two exclude each other.
    """
    if isinstance(setting, str):
        check_choice("data.augment", setting, list(dict.fromkeys((*COMBINATIONS, *STEPS, AUTO))))
        setting = COMBINATIONS.get(setting, (setting,))
    for step in setting:
        check_choice("data.augment", step, STEPS)
    if {RESIZED_CROP, CROP} <= set(setting):
        raise InputError(f"`data.augment` should have one of {RESIZED_CROP} and {CROP}. Got {', '.join(setting)}.")
    return tuple(step for step in STEPS if step in setting)


@dataclass(frozen=True)
class BatchAugmentation:
    """Applies the steps, all but a resized crop, to a uint8 batch, shape `(batch, 3, height, width)`."""

    steps: tuple[str, ...]

    def __call__(self, images: torch.Tensor, seed: int) -> torch.Tensor:
        """Returns the batch augmented; `seed` fixes every draw."""
        for step in self.steps:
            generator = np.random.default_rng(derive_seed(seed, step))  # steps do not change what others draw
            images = BATCH_TRANSFORMS[step](images, generator)
        return images


def build_augmentation(steps: Sequence[str]) -> BatchAugmentation:
    """Builds what is done with whole batches."""
    return BatchAugmentation(tuple(step for step in steps if step != RESIZED_CROP))
