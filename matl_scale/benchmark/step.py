"""Suite `step`: a training step of a route's sub-network, beside three references.

The references are masked execution (the authors' algorithm), an unrouted network with σ·C channels (the lower bound), and
the unrouted network with all channels. A step is forward pass, loss and backward pass, with gradients in the full parameters.
Figures whose name ends in `_with_optimizer` add a step of fused AdamW, which costs as much in both executions, and more than
in a small network.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, cast

import torch
from torch import nn
from torch.nn import functional

from matl_scale.benchmark import slots
from matl_scale.benchmark.figure import Conditions, Figure, Workload, timed
from matl_scale.benchmark.inputs import OPTIMIZER, full_width
from matl_scale.device import Precision, autocast
from matl_scale.models.backbones import build_backbone, count_features
from matl_scale.models.config import ModelConfig
from matl_scale.models.network import build_model
from matl_scale.models.routing_config import RoutingConfig
from matl_scale.routing.slice_gradients import SliceGradients
from matl_scale.routing.subnetwork import Subnetwork
from matl_scale.train.step.optim import build_optimizer

NUM_TASKS = 10
Forward = Callable[[torch.Tensor], torch.Tensor]
Reference = Literal["masked", "small", "plain"]
MEANINGS = {"masked": "masked", "small": "plain small network", "plain": "plain network"}


@dataclass(frozen=True)
class StepCase:
    """The conditions that both workloads of a figure have in common."""

    name: str  # of the backbone
    sigma: float = 0.5
    size: int = 64  # of the images, in pixels
    batch: int = 32
    precision: Precision = "fp32"
    with_optimizer: bool = False
    channels_last: bool = False
    compiled: bool = False

    def formatted(self, value: Any) -> Any:
        return value.to(memory_format=torch.channels_last) if self.channels_last else value

    def routed(self, conditions: Conditions, execution: str) -> Workload:
        """Returns steps of a routed network whose active route changes with every step."""
        model = build_model(full_width(self.name), RoutingConfig(sigma=self.sigma), [2] * NUM_TASKS, 0, self.size)
        model = self.formatted(model.to(conditions.device))
        subnetwork = Subnetwork(model.trunk) if execution == "subnetwork" else None
        trunk: nn.Module = subnetwork or model.trunk
        gradients = SliceGradients()
        if self.compiled:
            trunk.compile()
        route_ids = itertools.cycle(range(NUM_TASKS))
        optimizer = build_optimizer(OPTIMIZER, model)

        def forward(images: torch.Tensor) -> torch.Tensor:
            route_id = next(route_ids)
            route = torch.tensor([route_id], device=images.device)
            if subnetwork is None or self.compiled:
                features = trunk(images, route)
            else:
                features = subnetwork(images, route, subnetwork.gather(route, gradients=gradients))
            return cast(torch.Tensor, model.heads[route_id](features))

        return self.step(conditions, forward, optimizer)

    def unrouted(self, conditions: Conditions, width: float) -> Workload:
        """Returns steps of torchvision's network, without routing, with a fraction `width` of the channels."""
        config = ModelConfig(name=self.name, width=width, stem="standard")
        backbone = build_backbone(config, 0)
        model = nn.Sequential(backbone, nn.Linear(count_features(backbone, config, self.size), 2))
        model = self.formatted(model.to(conditions.device))
        if self.compiled:
            model.compile()
        return self.step(conditions, model, torch.optim.AdamW(model.parameters(), fused=True))

    def step(self, conditions: Conditions, forward: Forward, optimizer: torch.optim.Optimizer) -> Workload:
        device = conditions.device
        images = self.formatted(torch.randn(self.batch, 3, self.size, self.size, device=device))
        labels = torch.arange(self.batch, device=device) % 2

        def run() -> None:
            optimizer.zero_grad(set_to_none=True)
            with autocast(device, self.precision):
                logits = forward(images)
            functional.cross_entropy(logits.float(), labels).backward()
            if self.with_optimizer:
                optimizer.step()

        return run

    def pair(self, reference: Reference, conditions: Conditions) -> tuple[Workload, Workload]:
        """Returns steps of a reference and of a sub-network."""
        if reference == "masked":
            compared = self.routed(conditions, "masked")
        else:
            compared = self.unrouted(conditions, self.sigma if reference == "small" else 1.0)
        return compared, self.routed(conditions, "subnetwork")


def pair_formats(case: StepCase, conditions: Conditions) -> tuple[Workload, Workload]:
    """Returns steps of a plain network in both memory formats, channels_last second."""
    return case.unrouted(conditions, 1.0), replace(case, channels_last=True).unrouted(conditions, 1.0)


def figures(conditions: Conditions) -> list[Figure]:
    """Returns the suite, with more figures on a GPU."""
    found = []

    def add(case: StepCase, name: str, reference: Reference, note: str = "", suffix: str = "") -> None:
        meaning = f"{MEANINGS[reference]} ÷ sub-network{note}"
        found.append(Figure(f"step_{name}_vs_{reference}{suffix}", meaning, timed(partial(case.pair, reference))))

    for name, goal, small_goal in (("vgg11_bn", "≥ 3.2", "≥ 0.97"), ("resnet18", "≥ 2.7", "≥ 0.92")):
        case, whole = StepCase(name), StepCase(name, with_optimizer=True)
        add(case, name, "masked", f", {goal}")
        add(whole, name, "masked", suffix="_with_optimizer")
        add(case, name, "small", f", {small_goal}")
        add(whole, name, "small", suffix="_with_optimizer")
        add(case, name, "plain")
    for name in ("vgg11_bn", "resnet18", "mobilenet_v2", "efficientnet_b0"):
        formats = timed(partial(pair_formats, StepCase(name)))
        found.append(Figure(f"step_{name}_channels_last", "plain network: contiguous ÷ channels_last", formats))
    add(StepCase("vgg11_bn", precision="bf16"), "vgg11_bn_bf16", "masked", ", bf16, ≥ 2.0")
    add(StepCase("vgg11_bn", sigma=0.25), "vgg11_bn_sigma25", "masked", ", σ = 0.25, ≥ 6")
    if conditions.device.type == "cuda":
        case = StepCase("resnet50", size=224, batch=256, precision="bf16", channels_last=True, compiled=True)
        add(case, "resnet50_compiled", "plain", ", ≥ 2")
        add(case, "resnet50_compiled", "small")
        add(case, "resnet50_compiled", "masked")
    return found + slots.figures()
