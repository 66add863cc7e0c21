"""What the graph of a shared trunk may consist of. Nothing else is read from a folder, so that none can run code of its own.

The functions and methods are those that routing can follow in a backbone.
"""

import operator
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from matl_scale.routing.attention import HeadAttention, InProjection
from matl_scale.routing.channelwise import BlurPool, SamePadding
from matl_scale.routing.window_attention import NeighbourGather, WindowAttention, WindowMerge, WindowSplit

INPUTS = ("images", "route", "affine")  # of a routed trunk, in their order
_NAMES: dict[Any, str] = {
    operator: "add getitem iadd imul mul sub",
    torch: "add cat flatten mul permute relu reshape sigmoid sub tanh",
    functional: "adaptive_avg_pool2d avg_pool2d dropout gelu hardsigmoid hardswish max_pool2d relu relu6 sigmoid silu",
}
FUNCTIONS: dict[str, Callable[..., Any]] = {
    f"{library.__name__}.{name}": getattr(library, name) for library, names in _NAMES.items() for name in names.split()
}
METHODS = frozenset(
    ("add", "add_", "amax", "clone", "contiguous", "expand", "flatten", "mean", "mul", "mul_", "permute", "relu", "reshape",
     "sigmoid", "sigmoid_", "size", "sub", "tanh", "tanh_", "transpose", "view")
)  # fmt: skip
MODULE_NAME = re.compile(r"[\w-]+(\.[\w-]+)*", re.ASCII)  # as torchvision and timm have them


class LayerNorm2d(nn.LayerNorm):
    """A layer norm over the channels of images, `(batch, num_channels, height, width)`: torchvision's, without torchvision."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = functional.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps)
        return y.permute(0, 3, 1, 2)


OWN_KINDS = (
    LayerNorm2d, SamePadding, BlurPool, InProjection, HeadAttention, WindowAttention, WindowSplit, WindowMerge, NeighbourGather,
)  # fmt: skip
OWN_LAYERS: dict[str, type[nn.Module]] = {kind.__name__: kind for kind in OWN_KINDS}


def find_layer(kind: str) -> type[nn.Module] | None:
    """Returns the class of a layer by its name: one of torch's, or of `OWN_LAYERS`; None if there is no such layer."""
    if kind in OWN_LAYERS:
        return OWN_LAYERS[kind]
    found = getattr(nn, kind, None)
    is_layer = (
        isinstance(found, type) and issubclass(found, nn.Module) and found.__module__.startswith("torch.nn.modules.")
    )
    return found if is_layer else None
