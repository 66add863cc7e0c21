"""Small routed networks for the tests of export, and what their files say about them."""

from collections.abc import Callable
from functools import cache, partial

import torch
from torch import nn

from helpers.network_outputs import images_of
from helpers.torchvision_models import backbone_of, small_convnext
from matl_scale import route
from matl_scale.deploy.export.description import Description
from matl_scale.models.network import RoutedModel
from matl_scale.routing.batch_norm import Statistics
from matl_scale.vision import models

SIZE = 32
CLASSES = (2, 3, 4)
DESCRIPTION = Description(
    task='a/"b"\n',
    classes=("ja", "nein", "né'e"),
    image_size=SIZE,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    run="first",
    step=30,
    checkpoint_sha256="ab12",
)


def small_regnet() -> nn.Module:
    net = models.regnet.RegNet(models.regnet.BlockParams.from_init_params(2, 16, 8.0, 2.0, 4, se_ratio=0.25))
    net.fc = nn.Identity()
    return net.double()


def small_resnext() -> nn.Module:
    net = models.ResNet(models.resnet.Bottleneck, [1, 1, 1, 1], groups=4, width_per_group=4)
    net.fc = nn.Identity()
    return net.double()


def group_norm_net() -> nn.Module:
    """A task has a different number of active channels in each group."""
    layers = [nn.Conv2d(3, 16, 3), nn.GroupNorm(4, 16), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.GroupNorm(4, 32), nn.GELU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()).double()


def flat_net() -> nn.Module:
    """Four features per channel after the flatten."""
    layers = [
        nn.Conv2d(3, 8, 3, stride=4, padding=1, padding_mode="reflect"),
        nn.BatchNorm2d(8),
        nn.Dropout(),
        nn.ReLU(),
    ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten()).double()


SMALL: dict[str, Callable[[], nn.Module]] = {
    "vgg11_bn": partial(backbone_of, "vgg11_bn", 0.125),
    "resnet18": partial(backbone_of, "resnet18", 0.125),
    "resnext": small_resnext,
    "regnet": small_regnet,
    "group norm": group_norm_net,
    "convnext": small_convnext,
    "flat": flat_net,
}
LARGE: dict[str, Callable[[], nn.Module]] = {
    "vgg11": partial(backbone_of, "vgg11", 0.125),
    "squeezenet1_1": partial(backbone_of, "squeezenet1_1", 0.25),
    "mobilenet_v3_small": partial(backbone_of, "mobilenet_v3_small"),
    "mnasnet0_5": partial(backbone_of, "mnasnet0_5"),
    "efficientnet_b0": partial(backbone_of, "efficientnet_b0"),
    "densenet121": partial(backbone_of, "densenet121", 0.5),
    "resnet50": partial(backbone_of, "resnet50", 0.125),
}


@cache
def backbone(name: str) -> nn.Module:
    return (SMALL | LARGE)[name]()


def routed(name: str, sigma: float = 0.5, statistics: Statistics = "task") -> RoutedModel:
    """A network in float64 whose tasks have seen a few batches."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        net = backbone(name)
        torch.manual_seed(0)
        trunk = route(net, len(CLASSES), sigma, statistics=statistics)
        for task_id in (0, 1):
            features = trunk(images_of(SIZE) * (task_id + 1), torch.tensor([task_id]))
        return RoutedModel(trunk, CLASSES, features.shape[1]).double().eval()
