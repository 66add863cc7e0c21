"""The config section `model`: the backbone."""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from matl_scale.automatic import AUTO, Auto, chosen
from matl_scale.errors import InputError
from matl_scale.models.feature_layers import FEATURES
from matl_scale.models.from_timm import is_timm

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
        return replace(self, name=self.trunk, weights=weights, weights_sha256="", args={}, drop_path=AUTO)


def check_channels(key: str, numbers: list[float] | Auto) -> None:
    if numbers != AUTO and len(numbers) != 3:
        raise InputError(f"`model.{key}` should be three numbers, for R, G and B, or auto. Got {numbers}.")
