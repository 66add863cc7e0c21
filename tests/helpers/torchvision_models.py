"""Backbones that the routing tests run over, in float64 and without randomness."""

from functools import partial

import torch
from torch import nn

from matl_scale.models.backbones import build_backbone, feature_layers
from matl_scale.models.config import ModelConfig
from matl_scale.vision import StochasticDepth, models

# two with depthwise convs, one with SiLU, one with grouped convs, one that concatenates
FAMILIES = [
    "vgg11", "vgg11_bn", "resnet18", "resnet50", "mobilenet_v3_small", "efficientnet_b0", "mnasnet0_5",
    "resnext50_32x4d", "squeezenet1_1", "densenet121",
]  # fmt: skip

# for speed, narrower where convs allow it; in groups with more than one channel
WIDTHS = {
    "vgg11": 0.25, "vgg11_bn": 0.25, "resnet18": 0.25, "resnet50": 0.125, "efficientnet_b0": 0.5, "resnext50_32x4d": 0.5,
    "squeezenet1_1": 0.5, "densenet121": 0.5,
}  # fmt: skip


def backbone_of(name: str, width: float = 0) -> nn.Module:
    """`width` 0 is that of WIDTHS, or 1."""
    width = width or WIDTHS.get(name, 1)
    backbone = without_randomness(build_backbone(ModelConfig(name=name, width=width), seed=0)).double()
    with torch.no_grad():
        for norm in (module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)):
            norm.weight[::2] *= -1  # training makes some of them negative
    return backbone


def shallow_mobilenet() -> nn.Module:
    """The first blocks of a MobileNet: with a depthwise conv, squeeze and excitation, and a skip connection."""
    features = backbone_of("mobilenet_v3_small").get_submodule("features")
    assert isinstance(features, nn.Sequential)
    return nn.Sequential(*features[:4], nn.AdaptiveAvgPool2d(1), nn.Flatten())


def small_convnext() -> nn.Module:
    block = partial(models.convnext.CNBlockConfig, num_layers=1)
    net = models.convnext.ConvNeXt([block(16, 32), block(32, None)], layer_scale=0.5)
    net.classifier = feature_layers(net.classifier)
    return without_randomness(net).double()


def group_norm_resnet() -> nn.Module:
    net = models.ResNet(models.resnet.BasicBlock, [1, 1, 1, 1], norm_layer=partial(nn.GroupNorm, 8))
    net.fc = nn.Identity()
    return net.double()


def without_randomness(module: nn.Module) -> nn.Module:
    for child in module.modules():
        if isinstance(child, nn.Dropout):
            child.p = 0.0
        if isinstance(child, StochasticDepth):
            child.p = 0.0
    return module
