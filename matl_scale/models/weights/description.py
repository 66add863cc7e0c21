"""What weights say of themselves: for which architecture and for which images they were trained."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from numbers import Real
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlparse

from matl_scale.extras import is_installed
from matl_scale.models.from_timm import is_timm
from matl_scale.models.from_timm.library import find_timm_file, timm_defaults
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
    """Returns what a file says: timm's description in the hub's config or in the metadata; else what torchvision or timm, if
    installed, knows of a file of that name."""
    texts = weights.texts
    nested = texts.get(PRETRAINED_CFG)
    values = {**texts, **nested} if isinstance(nested, Mapping) else texts
    if not {"mean", "std", "input_size"} & values.keys() and (known := find_published(weights.path.name)):
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


def complete(description: WeightsDescription, name: str) -> WeightsDescription:
    """Returns a description with what timm says of the images of its model `name`, a `model.name`, where the description says
    nothing: timm trains and evaluates a model with these unless they are given. Of torchvision's, nothing is added."""
    if not is_timm(name):
        return description
    usual = from_timm(timm_defaults(name))
    return replace(
        description,
        mean=description.mean or usual.mean,
        std=description.std or usual.std,
        image_size=description.image_size or usual.image_size,
    )


def find_published(file_name: str) -> WeightsDescription | None:
    """Returns what torchvision or timm says of its weights that are kept in a file of this name; such names carry a checksum."""
    for name in models.list_models(module=models):
        for weights in models.get_model_weights(name):
            if PurePosixPath(urlparse(weights.url).path).name == file_name:
                return from_transforms(weights)
    entry = find_timm_file(file_name) if is_installed("timm") else None
    return None if entry is None else from_timm(entry)


def from_timm(entry: Any) -> WeightsDescription:
    """Reads an entry of timm's registry of weights."""
    return WeightsDescription(
        architecture=entry.architecture,
        mean=read_channels(entry.mean),
        std=read_channels(entry.std),
        image_size=read_size(entry.input_size),
    )


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
