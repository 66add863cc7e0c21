"""The layers between features that were computed before and the heads; and the same behind the trunk that computes them."""

from collections.abc import Sequence

import torch
from torch import nn

from matl_scale.routing.tracing import find_image_size

FEATURES = "features"  # the `model.name` of a network that is trained on them
FIRST_LAYER = "hidden.0"  # a pattern that matches its convs: in front of it is the trunk


class FeatureLayers(nn.Module):
    """A small network on features: layers of `units`, each with a norm and a ReLU.

    A layer is a 1 × 1 conv on images of one pixel, so that routers, norms of routes, slices and export treat it as they do every
    conv. Takes features, shape `(batch, num_features)`, and returns those of its last layer.
    """

    def __init__(self, num_features: int, units: Sequence[int]) -> None:
        super().__init__()
        self.as_pixel = nn.Unflatten(1, (-1, 1, 1))
        self.hidden = build_hidden(num_features, units)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return torch.flatten(self.hidden(self.as_pixel(features)), 1)


class OnTrunk(nn.Module):
    """A trunk with such layers behind it, under the names that they have alone.

    Attributes:
        image_size: The size in pixels of the images that the trunk is built for; None if it takes any.
    """

    def __init__(self, trunk: nn.Module, layers: nn.Module) -> None:
        super().__init__()
        assert isinstance(layers, FeatureLayers)
        self.image_size = find_image_size(trunk)
        self.trunk, self.as_pixel, self.hidden = trunk, layers.as_pixel, layers.hidden

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.flatten(self.hidden(self.as_pixel(self.trunk(images))), 1)


def build_hidden(num_features: int, units: Sequence[int]) -> nn.Sequential:
    """Builds the layers, which map `(batch, num_features, 1, 1)` to `(batch, units[-1], 1, 1)`."""
    layers = []
    for num_inputs, num_outputs in zip([num_features, *units[:-1]], units, strict=True):
        conv = nn.Conv2d(num_inputs, num_outputs, 1, bias=False)
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        layers.append(nn.Sequential(conv, nn.BatchNorm2d(num_outputs), nn.ReLU()))
    return nn.Sequential(*layers)
