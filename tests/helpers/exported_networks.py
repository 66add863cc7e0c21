"""Small routed networks for the tests of export, what their files say about them, and what such files hold."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from helpers.network_outputs import images_of
from helpers.torchvision_models import backbone_of, small_convnext
from matl_scale import route
from matl_scale.deploy.export.description import Description
from matl_scale.deploy.task_rules import TaskRules
from matl_scale.models.logits import find_columns
from matl_scale.models.network import RoutedModel
from matl_scale.routes import Routes
from matl_scale.routing.affine import Affine, initial_affine
from matl_scale.routing.batch_norm import Statistics
from matl_scale.tasks import Task
from matl_scale.vision import models

SIZE = 32
CLASSES = (2, 3, 4)
MANY_CLASSES = (2, 3, 2, 4, 2)
# task 2 joined the first route later
ROUTES = Routes(names=("first", "second"), route_of=(0, 1, 0, 0, 1), head_of=(0, 1, 2, 0, 1))
DESCRIPTION = Description(
    tasks=(Task(name='a/"b"\n', classes=("ja", "nein", "né'e")),),
    outputs=("logits",),
    rules=TaskRules.unfitted([3]),
    image_size=SIZE,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    run="first",
    step=30,
    checkpoint_sha256="ab12",
)
MANY_TASKS = replace(
    DESCRIPTION,
    tasks=tuple(Task(name=f"{i}-é", classes=tuple("abcd"[:count])) for i, count in enumerate(MANY_CLASSES)),
    outputs=tuple(f"logits_{i}" for i in range(len(MANY_CLASSES))),
    rules=TaskRules.unfitted(MANY_CLASSES),
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


def routed(name: str, sigma: float = 0.5, statistics: Statistics = "task", affine: Affine = "shared") -> RoutedModel:
    """A network in float64 whose tasks have seen a few batches."""
    return build(backbone(name), Routes.one_per_task("abc"), CLASSES, sigma=sigma, statistics=statistics, affine=affine)


def on_two_routes(name: str | nn.Module, start: str = "", **settings: Any) -> RoutedModel:
    """A network in float64 whose five tasks share two routes; the first one has two head matrices. Convs before `start` are not
    routed."""
    net = backbone(name) if isinstance(name, str) else name
    return build(net, ROUTES, MANY_CLASSES, **{"sigma": 0.5, "start": start, **settings})


def build(net: nn.Module, routes: Routes, classes: Sequence[int], **settings: Any) -> RoutedModel:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        trunk = route(net, routes.num_routes, **settings)
        initial = initial_affine(trunk)
        for route_id in (0, 1):
            features = trunk(images_of(SIZE) * (route_id + 1), torch.tensor([route_id]), initial)
        model = RoutedModel(trunk, classes, features.shape[1], routes).double().eval()
        for row in model.affine.rows if model.affine is not None else []:
            row *= 1 + torch.randn_like(row)
        return model


def masked(model: RoutedModel, task_id: int, images: torch.Tensor) -> torch.Tensor:
    """Returns a task's logits by masked execution."""
    with torch.no_grad():
        route_id = model.routes.route_of[task_id]
        return model(images, route_id)[:, find_columns(model.routes.tasks_of[route_id], model.num_classes, task_id)]


def count_layers(path: Path, layer: Literal["conv", "linear"]) -> int:
    """Returns how many convs or linear layers an exported file runs for a batch."""
    if path.suffix == ".onnx":
        import onnx

        kind = {"conv": "Conv", "linear": "Gemm"}[layer]
        return sum(node.op_type == kind for node in onnx.load(path).graph.node)
    if path.suffix == ".pt2":
        kind = {"conv": "conv2d", "linear": "linear"}[layer]
        return sum(f"aten.{kind}." in str(node.target) for node in torch.export.load(path).graph.nodes)
    kind = {"conv": "Conv2d", "linear": "Linear"}[layer]
    source = path.with_suffix(".py").read_text()
    names = re.findall(rf"self\.(\w+) = nn\.{kind}\(", source)
    return sum(len(re.findall(rf"= self\.{name}\(", source)) for name in names)
