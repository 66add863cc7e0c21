"""What weights say of themselves: for which architecture and for which images they were trained."""

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlparse

from matl_scale.models.weights.file import StoredWeights
from matl_scale.vision import models

PRETRAINED_CFG = "pretrained_cfg"  # timm's section, in the hub's config and in metadata


@dataclass(frozen=True, kw_only=True)
class WeightsDescription:
    """What is known of weights; None and the empty text where it is not."""

    architecture: str = ""  # timm's name of the network
    mean: list[float] | None = None  # of the images, per channel, as a share of the largest value
    std: list[float] | None = None
    image_size: int | None = None  # side length in pixels


def describe_stored(weights: StoredWeights) -> WeightsDescription:
    """Returns what a file says: timm's description in the hub's config or in the metadata; else what torchvision knows of a file
    of that name."""
    texts = weights.texts
    nested = texts.get(PRETRAINED_CFG)
    values = {**texts, **nested} if isinstance(nested, Mapping) else texts
    if not {"mean", "std", "input_size"} & values.keys() and (known := find_torchvision(weights.path.name)):
        return known
    architecture = texts.get("architecture", "")
    return WeightsDescription(
        architecture=architecture if isinstance(architecture, str) else "",
        mean=read_channels(values.get("mean")),
        std=read_channels(values.get("std")),
        image_size=read_size(values.get("input_size")),
    )


def describe_pretrained(name: str) -> WeightsDescription:
    """Returns what torchvision says of the default weights of a model."""
    return from_transforms(models.get_model_weights(name).DEFAULT)


def find_torchvision(file_name: str) -> WeightsDescription | None:
    """Returns what torchvision says of its weights that are kept in a file of this name; its names carry a checksum."""
    for name in models.list_models(module=models):
        for weights in models.get_model_weights(name):
            if PurePosixPath(urlparse(weights.url).path).name == file_name:
                return from_transforms(weights)
    return None


def from_transforms(weights: Any) -> WeightsDescription:
    """Reads torchvision's transforms of an entry of its weights."""
    transforms = weights.transforms()
    (size,) = set(transforms.crop_size)
    return WeightsDescription(mean=list(transforms.mean), std=list(transforms.std), image_size=size)


def read_channels(values: Any) -> list[float] | None:
    """Returns the numbers of three channels; one number, of grey images, counts for each of the three equal ones."""
    if not isinstance(values, list | tuple) or not all(isinstance(value, Real) for value in values):
        return None
    numbers = [float(value) for value in values]
    return {1: numbers * 3, 3: numbers}.get(len(numbers))


def read_size(values: Any) -> int | None:
    """Returns the side length of images of timm's `input_size`, `(channels, height, width)`; of another shape, the longer one."""
    if not isinstance(values, list | tuple) or len(values) != 3 or not all(isinstance(value, int) for value in values):
        return None
    return int(max(values[1:]))
