"""Figures of the suite `step` about small slots: eight slots of a rank, each with a route of its own, stacked as one network.

They are compared with one step of the plain network on as many images, and with the same slots one after the other. A step is
forward pass, loss and backward pass, with gradients in the full parameters.
"""

import itertools
from dataclasses import dataclass
from typing import get_args

import torch
from torch import nn
from torch.nn import functional

from matl_scale.benchmark.figure import Conditions, Figure, Workload, timed
from matl_scale.models.backbones import build_backbone, count_features
from matl_scale.models.config import ModelConfig, Stem
from matl_scale.models.network import build_model
from matl_scale.models.routing_config import RoutingConfig
from matl_scale.train.process_group import build_accelerator
from matl_scale.train.step.execution import Slots, TrunkExecution

NUM_SLOTS, NUM_TASKS = 8, 16


@dataclass(frozen=True, kw_only=True)
class SlotsCase:
    """The conditions that both workloads of a figure have in common."""

    name: str  # of the backbone
    width: float
    stem: Stem
    size: int = 32  # of the images, in pixels
    batch: int = 16  # images of a slot

    @property
    def model(self) -> ModelConfig:
        return ModelConfig(name=self.name, width=self.width, stem=self.stem)

    def routed(self, slots: Slots) -> Workload:
        """Returns steps of a routed network whose slots have other routes in each step."""
        accelerator = build_accelerator("fp32")
        model = build_model(self.model, RoutingConfig(sigma=0.5), [2] * NUM_TASKS, 0, self.size)
        model = model.to(accelerator.device)
        trunk = TrunkExecution(accelerator, model.trunk, "subnetwork", slots=slots)
        images, labels = self.inputs(NUM_SLOTS, accelerator.device)
        together = NUM_SLOTS if slots == "stacked" else 1
        routes = itertools.cycle(range(NUM_TASKS))

        def run() -> None:
            model.zero_grad(set_to_none=True)
            active = [next(routes) for _ in range(NUM_SLOTS)]
            trunk.begin_step(active)
            for first in range(0, NUM_SLOTS, together):
                group = slice(first, first + together)
                features = trunk.features(list(images[group]), active[group])
                losses = [
                    functional.cross_entropy(model.classify(part, route_id), targets)
                    for part, targets, route_id in zip(features, labels[group], active[group], strict=True)
                ]
                (torch.stack(losses).sum() / NUM_SLOTS).backward()

        return run

    def plain(self, device: torch.device) -> Workload:
        """Returns steps of the unrouted network with all channels, on the images of all slots at once."""
        backbone = build_backbone(self.model, 0)
        model = nn.Sequential(backbone, nn.Linear(count_features(backbone, self.model, self.size), 2)).to(device)
        images, labels = (values.flatten(0, 1) for values in self.inputs(NUM_SLOTS, device))

        def run() -> None:
            model.zero_grad(set_to_none=True)
            functional.cross_entropy(model(images), labels).backward()

        return run

    def inputs(self, num_slots: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the images of slots, shape `(num_slots, batch, 3, size, size)`, and their labels."""
        images = torch.randn(num_slots, self.batch, 3, self.size, self.size, device=device)
        return images, (torch.arange(self.batch, device=device) % 2).expand(num_slots, -1)

    def against_plain(self, conditions: Conditions) -> tuple[Workload, Workload]:
        return self.plain(conditions.device), self.routed("stacked")

    def against_single(self, conditions: Conditions) -> tuple[Workload, Workload]:  # noqa: ARG002
        return self.routed("single"), self.routed("stacked")


def figures() -> list[Figure]:
    """Returns the figures, for two networks, each with the stem of small images and with that of large ones."""
    found = []
    for name, width in (("vgg11_bn", 0.25), ("resnet18", 0.5)):
        for stem in get_args(Stem):
            case, suffix = SlotsCase(name=name, width=width, stem=stem), f"{name}_{stem}"
            meaning = "plain network on 128 images ÷ eight slots of 16, stacked"
            found += [
                Figure(f"step_8x16_vs_dense128_{suffix}", f"{meaning}, ≥ 1.8", timed(case.against_plain)),
                Figure(
                    f"step_8x16_vs_single_{suffix}", "slots one after the other ÷ stacked", timed(case.against_single)
                ),
            ]
    return found
