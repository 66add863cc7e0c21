"""What is different about a backbone that cuts images into patches, as vision transformers do: most are built for one size of
images, it has no stem, and it is made smaller by arguments of its own and not by `model.width`."""

import inspect
from typing import Any

from matl_scale.models.feature_layers import FEATURES
from matl_scale.models.from_timm import is_timm
from matl_scale.vision import models


def find_size_argument(name: str) -> str:
    """Returns the name of the argument that tells a model the size of its images; empty if it takes images of any size."""
    if is_timm(name):
        from matl_scale.models.from_timm.library import timm_defaults  # a network that is served needs no timm

        return "img_size" if timm_defaults(name).fixed_input_size else ""
    kind = getattr(torchvision_module(name), "VisionTransformer", None)
    return "image_size" if kind and "image_size" in inspect.signature(kind).parameters else ""


def has_patches(name: str) -> bool:
    """Returns whether the first layer of a model cuts images into patches."""
    return bool(find_size_argument(name)) or hasattr(torchvision_module(name), "PatchMerging")


def torchvision_module(name: str) -> Any:
    """Returns torchvision's module that defines a model; None if the model is another library's, or features."""
    return None if is_timm(name) or name == FEATURES else inspect.getmodule(models.get_model_builder(name))


def fill_size(name: str, args: dict[str, Any], image_size: int) -> dict[str, Any]:
    """Returns the arguments of a model for images of `image_size` pixels, unless they say the size already."""
    argument = find_size_argument(name)
    return {argument: image_size, **args} if argument else args
