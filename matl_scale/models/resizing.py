"""CNNs at any width, and with a stem for small images: layers are replaced, freshly initialised."""

from collections.abc import Callable
from typing import Any

from torch import nn

from matl_scale.errors import InputError
from matl_scale.models.transformers import has_patches


def check_stem(name: str) -> None:
    """Raises `InputError` if the stem of a model cannot be made small."""
    if has_patches(name):
        raise InputError(
            f"`model.stem` should be standard or auto with {name}, which cuts images into patches: make these smaller "
            "(`model.args`: patch_size), or the images larger."
        )


def find_first_conv(backbone: nn.Module) -> tuple[str, nn.Conv2d]:
    """Returns the name and the module of a CNN's first conv."""
    return next((name, module) for name, module in backbone.named_modules() if isinstance(module, nn.Conv2d))


def shrink_stem(backbone: nn.Module) -> None:
    """Makes the first conv 3 × 3 with stride 1 and removes the first max-pool, as is usual for 32-pixel images."""
    name, first = find_first_conv(backbone)
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
