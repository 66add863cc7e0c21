"""Suite `step`: a training step of a task's sub-network, beside three references.

The references are masked execution (the authors' algorithm), an unrouted network with σ·C channels (the lower bound), and
the unrouted network with all channels. A step is forward pass, loss and backward pass, with gradients in the full parameters.
Figures whose name ends in `_with_optimizer` add a step of fused AdamW, which costs as much in both executions, and more than
in a small network.
"""

import contextlib
import itertools
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional

from matl_scale.benchmark.figure import Conditions, Figure, Workload, timed
from matl_scale.models.backbones import ModelConfig, build_backbone, count_features
from matl_scale.models.network import RoutingConfig, build_model
from matl_scale.routing.subnetwork import Subnetwork
from matl_scale.tasks import Task
from matl_scale.train.step.optim import OptimConfig, build_optimizer

NUM_TASKS = 10
Forward = Callable[[torch.Tensor], torch.Tensor]


def binary_tasks(count: int) -> list[Task]:
    return [Task(name=f"task_{i}", classes=("no", "yes")) for i in range(count)]


class StepCase:
    """The conditions that both workloads of a figure have in common.

    Args:
        name: The backbone.
        sigma: σ.
        size: Side length of the images in pixels.
        batch: Images per step.
        dtype: Data type of autocast; None for float32.
        with_optimizer: Whether a step includes that of the optimizer.
        channels_last: Whether the memory format is channels last.
        compiled: Whether to compile with torch.compile.
    """

    def __init__(
        self,
        name: str,
        sigma: float = 0.5,
        *,
        size: int = 64,
        batch: int = 32,
        dtype: torch.dtype | None = None,
        with_optimizer: bool = False,
        channels_last: bool = False,
        compiled: bool = False,
    ) -> None:
        self.name, self.sigma, self.size, self.batch, self.dtype = name, sigma, size, batch, dtype
        self.with_optimizer, self.channels_last, self.compiled = with_optimizer, channels_last, compiled

    def images(self, device: torch.device) -> torch.Tensor:
        images = torch.randn(self.batch, 3, self.size, self.size, device=device)
        formatted: torch.Tensor = self.formatted(images)
        return formatted

    def formatted(self, value: Any) -> Any:
        return value.to(memory_format=torch.channels_last) if self.channels_last else value

    def routed(self, conditions: Conditions, execution: str) -> Workload:
        """Returns steps of a routed network whose active task changes with every step."""
        model = build_model(ModelConfig(name=self.name), RoutingConfig(sigma=self.sigma), [2] * NUM_TASKS, 0, self.size)
        model = self.formatted(model.to(conditions.device))
        trunk: nn.Module = model.trunk if execution == "masked" else Subnetwork(model.trunk)
        if self.compiled:
            trunk.compile()
        task_ids = itertools.cycle(range(NUM_TASKS))
        optimizer = build_optimizer(OptimConfig(), model)

        def forward(images: torch.Tensor) -> torch.Tensor:
            task_id = next(task_ids)
            return cast(
                torch.Tensor, model.heads[task_id](trunk(images, torch.tensor([task_id], device=images.device)))
            )

        return self.step(conditions, forward, optimizer)

    def unrouted(self, conditions: Conditions, width: float) -> Workload:
        """Returns steps of torchvision's network, without routing, with a fraction `width` of the channels."""
        config = ModelConfig(name=self.name, width=width)
        backbone = build_backbone(config, 0)
        model = nn.Sequential(backbone, nn.Linear(count_features(backbone, config, self.size), 2))
        model = self.formatted(model.to(conditions.device))
        if self.compiled:
            model.compile()
        return self.step(conditions, model, torch.optim.AdamW(model.parameters(), fused=True))

    def step(self, conditions: Conditions, forward: Forward, optimizer: torch.optim.Optimizer) -> Workload:
        images, labels = self.images(conditions.device), torch.arange(self.batch, device=conditions.device) % 2

        def run() -> None:
            optimizer.zero_grad(set_to_none=True)
            enabled = self.dtype is not None
            with torch.autocast(conditions.device.type, self.dtype) if enabled else contextlib.nullcontext():
                logits = forward(images)
            functional.cross_entropy(logits.float(), labels).backward()
            if self.with_optimizer:
                optimizer.step()

        return run


def against_masked(case: StepCase, conditions: Conditions) -> tuple[Workload, Workload]:
    return case.routed(conditions, "masked"), case.routed(conditions, "subnetwork")


def against_small(case: StepCase, conditions: Conditions) -> tuple[Workload, Workload]:
    return case.unrouted(conditions, case.sigma), case.routed(conditions, "subnetwork")


def against_unrouted(case: StepCase, conditions: Conditions) -> tuple[Workload, Workload]:
    return case.unrouted(conditions, 1.0), case.routed(conditions, "subnetwork")


def figure(
    name: str, meaning: str, build: Callable[[StepCase, Conditions], tuple[Workload, Workload]], case: StepCase
) -> Figure:
    return Figure(name, meaning, timed(partial(build, case)))


def figures(conditions: Conditions) -> list[Figure]:
    """Returns the suite, with more figures on a GPU."""
    masked, small, plain = "masked ÷ sub-network", "plain small network ÷ sub-network", "plain network ÷ sub-network"
    found = []
    for name, goal in (("vgg11_bn", "≥ 3.0"), ("resnet18", "≥ 2.5")):
        case, whole = StepCase(name), StepCase(name, with_optimizer=True)
        found += [
            figure(f"step_{name}_vs_masked", f"{masked}, {goal}", against_masked, case),
            figure(f"step_{name}_vs_masked_with_optimizer", masked, against_masked, whole),
            figure(f"step_{name}_vs_small", f"{small}, ≥ 0.9", against_small, case),
            figure(f"step_{name}_vs_small_with_optimizer", small, against_small, whole),
            figure(f"step_{name}_vs_plain", plain, against_unrouted, case),
        ]
    bf16, sparse = StepCase("vgg11_bn", dtype=torch.bfloat16), StepCase("vgg11_bn", 0.25)
    found += [
        figure("step_vgg11_bn_bf16_vs_masked", f"{masked}, bf16, ≥ 2.0", against_masked, bf16),
        figure("step_vgg11_bn_sigma25_vs_masked", f"{masked}, σ = 0.25, ≥ 6", against_masked, sparse),
    ]
    return found + (gpu_figures() if conditions.device.type == "cuda" else [])


def gpu_figures() -> list[Figure]:
    """Returns the figures of ResNet-50 at 224 pixels, σ = 0.5, bf16, channels_last, compiled."""
    case = partial(StepCase, "resnet50", size=224, dtype=torch.bfloat16, channels_last=True, compiled=True)
    return [
        figure(
            "step_resnet50_compiled_vs_plain", "plain network ÷ sub-network, ≥ 2", against_unrouted, case(batch=256)
        ),
        figure("step_resnet50_compiled_vs_small", "plain small network ÷ sub-network", against_small, case(batch=256)),
        figure("step_resnet50_compiled_vs_masked", "masked ÷ sub-network", against_masked, case(batch=256)),
    ]
