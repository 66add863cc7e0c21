"""torchvision's and timm's models by name, without their classifier; CNNs at any width, and with a stem for small images."""

import contextlib
import copy
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from matl_scale.automatic import AUTO, chosen
from matl_scale.errors import InputError, first_line, nearest
from matl_scale.models.config import ModelConfig
from matl_scale.models.feature_layers import FeatureLayers, OnTrunk
from matl_scale.models.from_timm import PREFIX, is_timm
from matl_scale.models.resizing import check_stem, find_first_conv, scale_width, shrink_stem
from matl_scale.models.transformers import find_size_argument
from matl_scale.seeds import derive_seed
from matl_scale.vision import models

if TYPE_CHECKING:
    from matl_scale.models.weights.file import StoredWeights

# torchvision gives them other layers with weights than without, and a checkpoint is read without
CHANGED_BY_WEIGHTS = ("googlenet", "inception_v3")


def build_backbone(config: ModelConfig, seed: int) -> nn.Module:
    """Builds a CNN without its classifier: `(batch, 3, height, width) → (batch, num_features)`. With the name `features`, builds
    the layers between features and heads alone; with the name of a CNN, `hidden` layers follow it.

    Raises:
        InputError: There is no such model, it needs timm, which is not installed, torch.fx cannot trace it (timm's are traced
            here), it has no classifier that can be removed, or its weights cannot be had, or do not fit.
    """
    if config.is_features:
        return build_layers(config, chosen(config.num_features), seed)
    backbone, classifier = build_plain_backbone(config, seed)
    if config.weights:
        # a network that is served never reads such a file
        from matl_scale.models.weights.file import read_weights
        from matl_scale.models.weights.fit import load_weights

        load_weights(backbone, classifier, read_weights(config.weights), config.name)
    return OnTrunk(backbone, build_layers(config, chosen(config.num_features), seed)) if config.layers else backbone


def build_layers(config: ModelConfig, num_features: int, seed: int) -> nn.Module:
    """Builds the layers between features and heads."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "hidden"))
        return FeatureLayers(num_features, config.layers) if config.layers else nn.Identity()


def build_plain_backbone(config: ModelConfig, seed: int) -> tuple[nn.Module, set[str]]:
    """Builds a backbone without `model.weights`. Returns it, and the names of the tensors that its classifier had."""
    check_name(config.name)
    if config.pretrained:
        if config.name in CHANGED_BY_WEIGHTS:
            raise InputError(f"`model.pretrained` should be false for {config.name}: its weights change its layers.")
        from matl_scale.models.pretrained import fetch_weights  # a served network has its own

        fetch_weights(config.name)
    width = chosen(config.width)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "backbone"))
        # of another width, all layers are replaced: to draw weights for the whole network first would take seconds
        with EmptyOnMeta() if width != 1 else contextlib.nullcontext():
            backbone = build_whole(config)
        names = set(backbone.state_dict())
        remove_classifier(backbone, config.name)
        classifier = names - set(backbone.state_dict())
        if config.stem == "small":
            check_stem(config.name)
            shrink_stem(backbone)
        if is_timm(config.name):
            backbone = load_library().build_timm_graph(backbone)
        if width != 1:
            scale_width(backbone, width)
    return backbone, classifier


def build_whole(config: ModelConfig) -> nn.Module:
    """Builds a CNN with its classifier, of width 1."""
    args = {} if config.args == AUTO else config.args
    if is_timm(config.name):
        backbone: nn.Module = load_library().build_timm(config.name, args)
        return backbone
    try:
        built: nn.Module = models.get_model(config.name, weights="DEFAULT" if config.pretrained else None, **args)
    except Exception as error:  # torchvision's models raise errors of many kinds
        if not args:
            raise
        raise InputError(
            f"`model.args`: torchvision cannot build {config.name} with {args}: {first_line(error).rstrip('.!')}."
        ) from error
    return built


def load_library() -> ModuleType:
    """Imports what only timm's backbones need."""
    from matl_scale.models.from_timm import library

    return library


class EmptyOnMeta(TorchFunctionMode):
    """Puts what `torch.empty` returns on the meta device, where layers allocate their weights with it, and does not draw values
    there. As the default device, meta would take along the numbers from which some networks compute their widths."""

    FILLS = (
        "normal_", "uniform_", "trunc_normal_", "kaiming_normal_", "kaiming_uniform_", "constant_", "zeros_", "ones_",
        "erfinv_", "mul_", "add_", "clamp_",
    )  # fmt: skip

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in self.FILLS:
            filled = args[0] if args else kwargs.get("tensor")
            if isinstance(filled, torch.Tensor) and filled.is_meta:
                return filled
        return func(*args, **(kwargs | ({"device": "meta"} if func is torch.empty else {})))


def build_backbone_outline(config: ModelConfig, seed: int) -> nn.Module:
    """Does what `build_backbone` does for modules and shapes. The weights, on the meta device, have no values, and need not be
    drawn or downloaded."""
    if config.is_features:
        return build_backbone(config, seed)
    return build_outline_parts(config, seed)[0]


def halves_early(config: ModelConfig) -> bool:
    """Returns whether the first conv of a CNN reduces the resolution."""
    outline = build_backbone_outline(replace(config, width=1, stem="standard"), seed=0)
    return max(find_first_conv(outline)[1].stride) > 1


def build_outline_parts(config: ModelConfig, seed: int) -> tuple[nn.Module, set[str]]:
    """Does what `build_plain_backbone` does, as an outline."""
    with EmptyOnMeta():
        return build_plain_backbone(config.without_weights(), seed)


def check_weights_fit(config: ModelConfig, weights: "StoredWeights") -> None:
    """Raises `InputError` if stored weights do not fit the backbone, whose name and stem have been chosen."""
    outline, classifier = build_outline_parts(config, seed=0)
    from matl_scale.models.weights.fit import fit_weights

    fit_weights(outline.state_dict(), classifier, weights, config.name)


def check_name(name: str) -> None:
    """Raises `InputError` if there is no model of that name in torchvision, or in timm if it begins with `timm/`."""
    if is_timm(name):
        load_library().check_timm_name(name)
        return
    names = models.list_models(module=models)
    if name not in names:
        raise InputError(
            f"`model.name` should be a torchvision model, or {PREFIX} and the name of a timm model. Got {name!r}."
            + nearest(name, names)
        )


def remove_classifier(backbone: nn.Module, name: str) -> None:
    """Leaves conv features, averaged over pixels. The hidden layers of VGG's and MobileNet's classifiers are removed too."""
    if is_timm(name):
        load_library().remove_timm_classifier(backbone, name)
        return
    for attribute in ("classifier", "fc", "heads", "head"):
        classifier = getattr(backbone, attribute, None)
        if isinstance(classifier, nn.Module):
            setattr(backbone, attribute, feature_layers(classifier))
            break
    else:
        raise InputError(f"`model.name` = {name}: it has no classifier to replace by task heads.")
    if isinstance(getattr(backbone, "avgpool", None), nn.AdaptiveAvgPool2d):
        backbone.avgpool = nn.AdaptiveAvgPool2d(1)


def feature_layers(classifier: nn.Module) -> nn.Module:
    """Returns the layers of a classifier that belong to the features: a norm and a flatten (ConvNeXt), a pool (SqueezeNet)."""
    layers: list[nn.Module] = []
    for module in classifier.children():
        if isinstance(module, nn.LayerNorm | nn.Flatten):
            layers.append(module)
        elif isinstance(module, nn.AdaptiveAvgPool2d):
            layers.append(nn.AdaptiveAvgPool2d(1))
    return nn.Sequential(*layers) if layers else nn.Identity()


def suggest_size(name: str) -> str:
    """Returns what to do about images whose size a backbone does not take."""
    if argument := find_size_argument(name):
        return (
            f"Set `data.image_size` to a multiple of the size of its patches, and leave {argument} out of `model.args`, or give "
            "both the same size."
        )
    return "Try a larger `data.image_size`, `model.stem` small, or another `model.width`."


def count_features(backbone: nn.Module, config: ModelConfig, image_size: int) -> int:
    """Returns the number of features that the backbone returns, by running it once on the meta device.

    Raises:
        InputError: The backbone does not run on images of this size.
    """
    on_meta = copy.deepcopy(backbone).to("meta", torch.float32).eval()
    shape = config.input_shape or (3, image_size, image_size)
    try:
        output = on_meta(torch.empty(1, *shape, device="meta", dtype=torch.float32))
    except Exception as error:  # torchvision's models raise errors of many kinds
        raise InputError(
            f"`model.name` = {config.name} (width {config.width:g}, stem {config.stem}) does not run on images of "
            f"{image_size} pixels: {first_line(error).rstrip('.!')}. {suggest_size(config.name)}"
        ) from error
    return int(output.shape[1])
