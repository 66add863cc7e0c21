"""A training step of a task's sub-network beside masked execution (the authors' algorithm), the plain small network with
σ·C channels (the floor) and the plain unrouted network.

A step is forward pass, loss and backward pass, down to gradients in the whole parameters. Rows whose name ends in
`_with_optimizer` add a step of fused AdamW, which costs the same in both executions, and more than in a small network.
"""

import contextlib
import itertools
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional

from matl_scale.benchmark.measure import Measure, Run, Setup, timed
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
    """What both sides of a comparison have in common.

    Args:
        name: The backbone.
        sigma: σ.
        size: Side length of the images in pixels.
        batch: Images per step.
        dtype: Of autocast; None for float32.
        with_optimizer: Whether a step ends with the optimizer's.
        channels_last: Memory format.
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
        return self.formatted(images)

    def formatted(self, thing: Any) -> Any:
        return thing.to(memory_format=torch.channels_last) if self.channels_last else thing

    def routed(self, setup: Setup, execution: str) -> Run:
        """A routed network whose active task changes with every step."""
        model = build_model(
            ModelConfig(name=self.name), RoutingConfig(sigma=self.sigma), binary_tasks(NUM_TASKS), 0, self.size
        )
        model = self.formatted(model.to(setup.device))
        trunk: nn.Module = model.trunk if execution == "masked" else Subnetwork(model.trunk)
        if self.compiled:
            trunk.compile()
        turns = itertools.cycle(range(NUM_TASKS))
        optimizer = build_optimizer(OptimConfig(), model)

        def forward(images: torch.Tensor) -> torch.Tensor:
            task_id = next(turns)
            return cast(
                torch.Tensor, model.heads[task_id](trunk(images, torch.tensor([task_id], device=images.device)))
            )

        return self.step(setup, forward, optimizer)

    def plain(self, setup: Setup, width: float) -> Run:
        """torchvision's network, without routing, with a fraction of the channels."""
        config = ModelConfig(name=self.name, width=width)
        backbone = build_backbone(config, 0)
        model = nn.Sequential(backbone, nn.Linear(count_features(backbone, config, self.size), 2))
        model = self.formatted(model.to(setup.device))
        if self.compiled:
            model.compile()
        return self.step(setup, model, torch.optim.AdamW(model.parameters(), fused=True))

    def step(self, setup: Setup, forward: Forward, optimizer: torch.optim.Optimizer) -> Run:
        images, labels = self.images(setup.device), torch.arange(self.batch, device=setup.device) % 2

        def run() -> None:
            optimizer.zero_grad(set_to_none=True)
            enabled = self.dtype is not None
            with torch.autocast(setup.device.type, self.dtype) if enabled else contextlib.nullcontext():
                logits = forward(images)
            functional.cross_entropy(logits.float(), labels).backward()
            if self.with_optimizer:
                optimizer.step()

        return run


def against_masked(case: StepCase, setup: Setup) -> tuple[Run, Run]:
    return case.routed(setup, "masked"), case.routed(setup, "subnetwork")


def against_small(case: StepCase, setup: Setup) -> tuple[Run, Run]:
    return case.plain(setup, case.sigma), case.routed(setup, "subnetwork")


def against_plain(case: StepCase, setup: Setup) -> tuple[Run, Run]:
    return case.plain(setup, 1.0), case.routed(setup, "subnetwork")


def measure(name: str, meaning: str, build: Callable[[StepCase, Setup], tuple[Run, Run]], case: StepCase) -> Measure:
    return Measure(suite="step", name=name, meaning=meaning, values=timed(partial(build, case)))


def measures(setup: Setup) -> list[Measure]:
    """Returns the suite; on a GPU also what only a GPU shows."""
    masked, small, plain = "masked ÷ sub-network", "plain small network ÷ sub-network", "plain network ÷ sub-network"
    rows = []
    for label, name, goal in (("vgg11_bn", "vgg11_bn", "≥ 3.0"), ("resnet18", "resnet18", "≥ 2.5")):
        case, whole = StepCase(name), StepCase(name, with_optimizer=True)
        rows += [
            measure(f"step_{label}_vs_masked", f"{masked}, {goal}", against_masked, case),
            measure(f"step_{label}_vs_masked_with_optimizer", masked, against_masked, whole),
            measure(f"step_{label}_vs_small", f"{small}, ≥ 0.9", against_small, case),
            measure(f"step_{label}_vs_small_with_optimizer", small, against_small, whole),
            measure(f"step_{label}_vs_plain", plain, against_plain, case),
        ]
    bf16, sparse = StepCase("vgg11_bn", dtype=torch.bfloat16), StepCase("vgg11_bn", 0.25)
    rows += [
        measure("step_vgg11_bn_bf16_vs_masked", f"{masked}, bf16, ≥ 2.0", against_masked, bf16),
        measure("step_vgg11_bn_sigma25_vs_masked", f"{masked}, σ = 0.25, ≥ 6", against_masked, sparse),
    ]
    return rows + (gpu_measures() if setup.device.type == "cuda" else [])


def gpu_measures() -> list[Measure]:
    """ResNet-50 at 224 pixels, σ = 0.5, bf16, channels_last, compiled."""
    case = partial(StepCase, "resnet50", size=224, dtype=torch.bfloat16, channels_last=True, compiled=True)
    return [
        measure("step_resnet50_compiled_vs_plain", "plain network ÷ sub-network, ≥ 2", against_plain, case(batch=256)),
        measure("step_resnet50_compiled_vs_small", "plain small network ÷ sub-network", against_small, case(batch=256)),
        measure("step_resnet50_compiled_vs_masked", "masked ÷ sub-network", against_masked, case(batch=256)),
    ]
