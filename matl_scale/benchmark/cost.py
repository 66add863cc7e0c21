"""Suite `cost`: multiply-adds as counted ÷ those that torch's profiler finds while a route's dense network runs, σ = 0.5."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from matl_scale.benchmark.figure import Conditions, Figure
from matl_scale.benchmark.inputs import build_binary, full_width
from matl_scale.deploy.export.dense import dense_network
from matl_scale.models.cost import count_forward, count_training
from matl_scale.models.network import RoutedModel
from matl_scale.models.routing_config import RoutingConfig

BACKBONES = (
    "resnet18", "resnet50", "resnext50_32x4d", "vgg11_bn", "densenet121", "mobilenet_v2", "mobilenet_v3_small",
    "efficientnet_b0", "regnet_y_400mf", "convnext_tiny",
)  # fmt: skip
SIZE = 64
NUM_TASKS, NUM_ROUTES, ROUTE = 10, 2, 1
CONV_BACKWARD = torch.ops.aten.convolution_backward
Pass = Literal["forward", "training"]


def backward_flops(*shapes: Any, out_shape: Sequence[Any]) -> int:
    """Counts a conv's backward pass as torch's profiler does, but for groups: torch 2.13 takes the gradient of a grouped conv's
    weight for that of a conv without groups (pytorch#183405). `shapes` are the arguments of `aten.convolution_backward`."""
    *others, groups, (of_input, of_weight, _) = shapes
    count = partial(flop_registry[CONV_BACKWARD], *others, 1, out_val=out_shape)
    return int(count((of_input, False, False)) + count((False, of_weight, False)) // groups)


def profile(model: RoutedModel, route_id: int, size: int, kind: Pass) -> int:
    """Returns the multiply-adds that the profiler finds in one image's pass through the dense network of a route's tasks."""
    network = dense_network(model, list(model.routes.tasks_of[route_id]))
    image = torch.zeros(1, 3, size, size, device=next(model.parameters()).device)
    counter = FlopCounterMode(display=False, custom_mapping={CONV_BACKWARD: backward_flops})
    with counter:
        logits = network(image)
        if kind == "training":
            torch.cat(logits if isinstance(logits, tuple) else [logits], dim=1).sum().backward()
    return counter.get_total_flops() // 2  # it counts a multiplication and an addition


def measure_counts(name: str, kind: Pass, conditions: Conditions) -> np.ndarray:
    """Returns multiply-adds, shape `(rounds, 2)`: as counted, and as profiled. They are the same in every round."""
    config = full_width(name)
    model = build_binary(config, RoutingConfig(sigma=0.5), NUM_TASKS, SIZE, NUM_ROUTES).to(conditions.device)
    count = {"forward": count_forward, "training": count_training}[kind]
    return np.tile([float(count(model, ROUTE)), float(profile(model, ROUTE, SIZE, kind))], (conditions.rounds, 1))


def figures(conditions: Conditions) -> list[Figure]:  # noqa: ARG001
    kinds: tuple[tuple[Pass, str], ...] = (("forward", "a forward pass"), ("training", "forward and backward pass"))
    return [
        Figure(
            f"cost_{name}_{kind}",
            f"multiply-adds of {text}, {SIZE} px, counted ÷ profiled, 0.99 to 1.01",
            partial(measure_counts, name, kind),
            unit="",
        )
        for name in BACKBONES
        for kind, text in kinds
    ]
