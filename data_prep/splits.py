"""Which split an image belongs to: one name for all, or seeded fractions."""

import re

import numpy as np

from matl_scale.data.shards import InputError


def check_split_name(name: str) -> str:
    """Returns `name` if it can stand in a file name; raises `InputError` otherwise."""
    if not re.fullmatch(r"[A-Za-z0-9_]+", name):
        raise InputError(f"A split name should be letters, digits and underscores. Got {name!r}.")
    return name


def parse_fractions(text: str) -> dict[str, float]:
    """Reads `train=0.8,val=0.1,test=0.1`.

    Raises:
        InputError: It has another form, or the fractions do not add up to 1.
    """
    fractions: dict[str, float] = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        try:
            fractions[check_split_name(name.strip())] = float(value)
        except ValueError as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"--split-fractions should look like train=0.8,val=0.1,test=0.1. Got {text!r}.") from error
    if min(fractions.values()) <= 0 or abs(sum(fractions.values()) - 1) > 1e-6:
        raise InputError(f"--split-fractions should be positive and add up to 1. Got {text!r}.")
    return fractions


def draw_splits(num_images: int, fractions: dict[str, float], seed: int) -> np.ndarray:
    """Draws the split of each image, shape `(num_images,)`: exact shares up to rounding, a pure function of its arguments."""
    order = np.random.default_rng(seed).permutation(num_images)
    ends = np.round(np.cumsum(list(fractions.values())) * num_images).astype(int)[:-1]
    splits = np.empty(num_images, dtype=object)
    for name, rows in zip(fractions, np.split(order, ends), strict=True):
        splits[rows] = name
    return splits
