"""timm's own layers as torch's: each becomes the one that has its weights. Names of parameters and buffers stay timm's.

timm has layers that do several things at once: a norm with its activation, a conv with its padding. What torch's layer does not
do comes before or behind it in the graph.
"""

from collections.abc import Callable
from typing import Any

from torch import nn

from matl_scale.models.from_timm.library import load_timm
from matl_scale.routing.channelwise import BlurPool, SamePadding
from matl_scale.vision import LayerNorm2d, StochasticDepth

timm_layers = load_timm("This module").layers
# the same layer under another class: the same attributes, and a forward that computes the same
SAME: dict[type[nn.Module], type[nn.Module]] = {
    timm_layers.BatchNormAct2d: nn.BatchNorm2d,
    timm_layers.GroupNormAct: nn.GroupNorm,
    timm_layers.GroupNorm: nn.GroupNorm,
    timm_layers.GroupNorm1: nn.GroupNorm,
    timm_layers.LayerNorm: nn.LayerNorm,
    timm_layers.LayerNormAct: nn.LayerNorm,
    timm_layers.LayerNorm2d: LayerNorm2d,
    timm_layers.LayerNormAct2d: LayerNorm2d,
    timm_layers.Conv2dSame: nn.Conv2d,
    timm_layers.pool2d_same.MaxPool2dSame: nn.MaxPool2d,
    timm_layers.pool2d_same.AvgPool2dSame: nn.AvgPool2d,
}
# layers without weights, as torch writes them
REWRITTEN: dict[type[nn.Module], Callable[[Any], nn.Module]] = {
    timm_layers.DropPath: lambda layer: StochasticDepth(layer.drop_prob, "row"),
    timm_layers.BlurPool2d: lambda layer: BlurPool(layer.filt_size, layer.stride, layer.padding[0], layer.pad_mode),
    timm_layers.activations.GELU: lambda _: nn.GELU(),
    timm_layers.activations.GELUTanh: lambda _: nn.GELU(approximate="tanh"),
    timm_layers.activations.Swish: lambda layer: nn.SiLU(inplace=layer.inplace),
    timm_layers.activations.HardSwish: lambda layer: nn.Hardswish(inplace=layer.inplace),
    timm_layers.activations.HardSigmoid: lambda layer: nn.Hardsigmoid(inplace=layer.inplace),
    timm_layers.activations.Sigmoid: lambda _: nn.Sigmoid(),
    timm_layers.activations.Tanh: lambda _: nn.Tanh(),
    timm_layers.activations.Mish: lambda _: nn.Mish(),
}
PADDED = (timm_layers.Conv2dSame, timm_layers.pool2d_same.MaxPool2dSame, timm_layers.pool2d_same.AvgPool2dSame)


class Layers:
    """Replaces the layers of a timm model, in place.

    Attributes:
        before: Of a replaced layer, what runs before it.
        behind: Of a replaced layer, what runs behind it.
    """

    def __init__(self, model: nn.Module) -> None:
        self.before: dict[nn.Module, nn.Module] = {}
        self.behind: dict[nn.Module, nn.Module] = {}
        self.added = nn.ModuleDict()
        for name, layer in list(model.named_modules(remove_duplicate=False)):
            if type(layer) in REWRITTEN:
                model.set_submodule(name, REWRITTEN[type(layer)](layer))
        for name, layer in list(model.named_modules()):
            if type(layer) in SAME:
                self.replace(name, layer)
        model.add_module("added", self.added)

    def replace(self, name: str, layer: Any) -> None:
        key = name.replace(".", "_")
        if isinstance(layer, PADDED):
            # a max pool ignores what is padded, an average counts it as zero
            value = float("-inf") if isinstance(layer, nn.MaxPool2d) else 0.0
            dilation = (1, 1) if isinstance(layer, nn.AvgPool2d) else pair(layer.dilation)
            padding = SamePadding(pair(layer.kernel_size), pair(layer.stride), dilation, value)
            self.before[layer] = self.added[f"{key}_padding"] = padding
        if hasattr(layer, "act"):
            self.behind[layer] = self.added[f"{key}_act"] = nn.Sequential(layer.drop, layer.act)
            del layer.drop, layer.act
        layer.__class__ = SAME[type(layer)]


def pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return size if isinstance(size, tuple) else (size, size)
