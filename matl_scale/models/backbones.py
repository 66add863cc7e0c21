"""torchvision's and timm's models by name, without their classifier; CNNs at any width, and with a stem for small images."""

import contextlib
import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from matl_scale.automatic import AUTO, Auto, chosen
from matl_scale.errors import InputError, first_line, nearest
from matl_scale.models.feature_layers import FEATURES, FeatureLayers, OnTrunk
from matl_scale.models.from_timm import PREFIX, is_timm
from matl_scale.models.transformers import has_patches
from matl_scale.seeds import derive_seed
from matl_scale.vision import models

if TYPE_CHECKING:
    from matl_scale.models.weights.file import StoredWeights

# torchvision gives them other layers with weights than without, and a checkpoint is read without
CHANGED_BY_WEIGHTS = ("googlenet", "inception_v3")
Stem = Literal["standard", "small"]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The backbone."""

    name: str = "auto"
    """A torchvision model, by its name in torchvision.models.get_model, or timm/ and the name of a timm model, without the tag
    of weights: timm/regnety_002. `features`: what matl-embed has computed of the set's images by a trunk that stays as it is.
    `auto`: resnet18, or vgg11_bn for small images on CPUs."""
    args: dict[str, Any] | Auto = field(default=AUTO, hash=False)
    """Arguments of the model's own builder, as timm.create_model takes them: {patch_size: 4, embed_dim: 64, depth: 4, num_heads:
    4} makes a small vision transformer. A model for one size of images is told `data.image_size`, unless it is among them.
    `auto`: no others."""
    width: float | Auto = "auto"
    """Multiplies the channels of every layer; 1 for transformers. `auto`: 1 on a GPU; on CPUs at most a half, by what can be
    trained in `train.minutes`, or in a quarter of an hour."""
    stem: Stem | Auto = "auto"
    """`small` keeps the resolution in the first conv and drops the first max-pool. `auto`: by the size of the images; `standard`
    for transformers, whose patches are in `args`."""
    pretrained: bool = False
    """Start from torchvision's default weights, downloaded at the first use; a run that resumes, or starts from another run,
    needs none. Needs width 1 and the standard stem."""
    weights: str = ""
    """Start from the weights in this file: safetensors, or what torch.save wrote, with the names of torchvision or timm; or a
    folder of a model hub. Nothing is downloaded, and no code in it is run. Its classifier is left out. Needs width 1."""
    weights_sha256: str = "auto"
    """The SHA-256 that the file of `weights` should have. `auto`: the run notes the one that it has."""
    hidden: list[int] | int = field(default_factory=list, hash=False)
    """With `features`: the numbers of units of the layers between them and the heads, each with a norm and a ReLU, which are
    routed as convs are. None trains heads alone."""
    trunk: str = "auto"
    """With `features`: the network that computed them, where the set has those of several."""
    trunk_sha256: str = "auto"
    """The SHA-256 of the file with the weights of that network, which the run copies into its checkpoints and notes here."""
    num_features: int | Auto = "auto"
    """With `features`: how many numbers an image has; the run notes it."""
    mean: list[float] | Auto = field(default=AUTO, hash=False)
    """Mean of the images that the backbone expects, per channel (R, G, B), where 1 is the largest value. `auto`: what the weights
    say; else that of ImageNet."""
    std: list[float] | Auto = field(default=AUTO, hash=False)
    """Standard deviation to `mean`."""
    freeze: list[str] | str = field(default_factory=list, hash=False)
    """The modules whose weights stay as they are: a name pattern, or a list of patterns (`layer1` is everything in it, `*` the
    whole trunk: only heads are trained). They run in evaluation mode; norm statistics that a route lacks are gathered in the
    first ten steps in which it runs."""
    drop_path: float | Auto = "auto"
    """Stochastic depth: the probability with which the last residual branch is left out while training, for each image anew;
    that of the branches before it rises linearly from 0. `auto`: the backbone's own (EfficientNet 0.2, ConvNeXt 0.1 to 0.5, no
    other)."""

    def __post_init__(self) -> None:
        if isinstance(self.freeze, str):
            object.__setattr__(self, "freeze", [self.freeze] if self.freeze else [])
        if isinstance(self.hidden, int):
            object.__setattr__(self, "hidden", [self.hidden] if self.hidden else [])
        self._check_features()
        for key, numbers in (("mean", self.mean), ("std", self.std)):
            check_channels(key, numbers)
        if self.std != AUTO and not min(self.std) > 0:
            raise InputError(f"`model.std` should be above 0 for every channel. Got {self.std}.")
        if self.weights and self.pretrained:
            raise InputError("`model.pretrained` should be false with `model.weights`: a network has one origin.")
        if self.weights and self.width not in (1, AUTO):
            raise InputError(
                f"`model.width` should be 1 with `model.weights`, which are of a whole network. Got {self.width}."
            )
        if self.drop_path != AUTO and not 0 <= self.drop_path < 1:
            raise InputError(f"`model.drop_path` should be auto, or at least 0 and below 1. Got {self.drop_path}.")
        if self.width != AUTO and not self.width > 0:
            raise InputError(f"`model.width` should be above 0. Got {self.width}.")
        if self.pretrained and is_timm(self.name):
            raise InputError(
                f"`model.pretrained` should be false for {self.name}: only torchvision's weights are downloaded here."
            )
        if self.pretrained and (self.width not in (1, AUTO) or self.stem not in ("standard", AUTO)):
            raise InputError("`model.pretrained` should be false unless `model.width` is 1 and `model.stem` standard.")

    def _check_features(self) -> None:
        if min(self.layers, default=1) < 1:
            raise InputError(f"`model.hidden` should be numbers of units, each at least 1. Got {self.layers}.")
        if self.is_features and (self.pretrained or self.freeze):
            key = "pretrained" if self.pretrained else "freeze"
            raise InputError(
                f"`model.{key}` should not be given with `model.name` = features: the trunk, with its weights, is that which "
                "computed them (matl-embed)."
            )

    @property
    def layers(self) -> list[int]:
        """The units of the layers between features and heads."""
        return [self.hidden] if isinstance(self.hidden, int) else self.hidden

    @property
    def is_features(self) -> bool:
        """Whether the network is trained on features that were computed before."""
        return self.name == FEATURES

    @property
    def is_heads_alone(self) -> bool:
        """Whether there is no layer between the input and the heads."""
        return self.is_features and not self.layers

    @property
    def input_shape(self) -> tuple[int, ...] | None:
        """The shape of an image's features where the network is trained on these; None for one that takes images."""
        return (chosen(self.num_features),) if self.is_features else None

    @property
    def is_trained(self) -> bool:
        """Whether the backbone starts with weights that somebody else has trained."""
        return self.pretrained or (bool(self.weights) and not self.is_features)

    def without_weights(self) -> "ModelConfig":
        """Returns the config of the same backbone whose weights come from elsewhere, or do not matter."""
        return replace(self, pretrained=False, weights="")

    def on_trunk(self, weights: str) -> "ModelConfig":
        """Returns the config of the network for images that a network trained on features is, together with the trunk that
        computed them; `weights` is the file with the trunk's."""
        assert self.is_features
        return replace(self, name=self.trunk, weights=weights, weights_sha256="")


def check_channels(key: str, numbers: list[float] | Auto) -> None:
    if numbers != AUTO and len(numbers) != 3:
        raise InputError(f"`model.{key}` should be three numbers, for R, G and B, or auto. Got {numbers}.")


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


def check_stem(name: str) -> None:
    """Raises `InputError` if the stem of a model cannot be made small."""
    if has_patches(name):
        raise InputError(
            f"`model.stem` should be standard or auto with {name}, which cuts images into patches: make these smaller "
            "(`model.args`: patch_size), or the images larger."
        )


def shrink_stem(backbone: nn.Module) -> None:
    """Makes the first conv 3 × 3 with stride 1 and removes the first max-pool, as is usual for 32-pixel images."""
    name, first = next((name, module) for name, module in backbone.named_modules() if isinstance(module, nn.Conv2d))
    conv = nn.Conv2d(first.in_channels, first.out_channels, 3, padding=1, bias=first.bias is not None)
    init_conv(conv)
    backbone.set_submodule(name, conv)
    pool = next((name for name, module in backbone.named_modules() if isinstance(module, nn.MaxPool2d)), None)
    if pool is not None:
        backbone.set_submodule(pool, nn.Identity())


def scale_width(backbone: nn.Module, width: float) -> None:
    """Replaces every conv and batch norm by a freshly initialised one with `width` times the channels.

    Raises:
        InputError: A grouped conv cannot be scaled by this factor, or a layer is of a kind that cannot be scaled.
    """

    def scaled(channels: int) -> int:
        return max(1, round(channels * width))

    for name, module in list(backbone.named_modules()):
        if type(module) is nn.Conv2d:  # a subclass may do more
            backbone.set_submodule(name, scale_conv(name, module, scaled))
        elif type(module) is nn.BatchNorm2d:
            backbone.set_submodule(name, nn.BatchNorm2d(scaled(module.num_features), module.eps, module.momentum))
        elif next(module.parameters(recurse=False), None) is not None:
            raise InputError(
                f"`model.width` should be 1 here: {f'module `{name}`' if name else 'the backbone'} ({type(module).__name__}) "
                "cannot be scaled. (What `model.args` "
                "takes makes a transformer smaller: embed_dim, depth, num_heads.)"
            )


def scale_conv(name: str, conv: nn.Conv2d, scaled: Callable[[int], int]) -> nn.Conv2d:
    ins = conv.in_channels if conv.in_channels == 3 else scaled(conv.in_channels)
    outs = scaled(conv.out_channels)
    groups = ins if conv.groups == conv.in_channels > 1 else conv.groups
    if ins % groups or outs % groups:
        raise InputError(
            f"`model.width`: module `{name}` would have {ins} → {outs} channels in {groups} groups, which do not divide "
            "them. Choose another width."
        )
    shape: dict[str, Any] = {key: getattr(conv, key) for key in ("kernel_size", "stride", "padding", "dilation")}
    new = nn.Conv2d(ins, outs, **shape, groups=groups, bias=conv.bias is not None)
    init_conv(new)
    return new


def init_conv(conv: nn.Conv2d) -> None:
    """He initialisation over the fan-out (He et al., 2015, arXiv 1502.01852), as torchvision's CNNs use it."""
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)


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
            f"{image_size} pixels: {first_line(error)}. Try a larger `data.image_size`, `model.stem` small, or another "
            "`model.width`."
        ) from error
    return int(output.shape[1])
