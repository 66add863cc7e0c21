"""Suite `losses`: what a loss adds to a training step of 312 binary tasks on 16 routes.

A step is the program's own, of a ResNet-18 at σ = 0.5 with 32 images of 64 pixels. A loss with its backward pass takes some
thousandths of it, which are lost in the spread of whole steps: so it is timed alone, on logits of a step's shape, and divided by
the step. That is more than it adds, for cross-entropy takes its time too.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch

from matl_scale.benchmark.figure import Conditions, Figure, Workload, timed
from matl_scale.benchmark.inputs import binary_tasks, build_resnet
from matl_scale.benchmark.training_step import BATCH, OurStep
from matl_scale.train.losses.class_weights import ClassShares
from matl_scale.train.losses.config import LossConfig
from matl_scale.train.losses.task_loss import TaskLoss, build_task_losses
from matl_scale.train.process_group import build_accelerator
from matl_scale.train.step.loss import RouteLoss

NUM_TASKS, NUM_ROUTES, SIZE = 312, 16, 64
MIXED = LossConfig(
    name={"task_*0": "focal", "task_*1": "asymmetric", "task_*2": "logit_adjusted"},
    class_weight="inverse",
    label_smoothing=0.1,
)
CASES = {
    "cross_entropy": LossConfig(),
    "focal": LossConfig(name="focal"),
    "asymmetric": LossConfig(name="asymmetric"),
    "logit_adjusted": LossConfig(name="logit_adjusted"),
    "weighted": LossConfig(class_weight="inverse", label_smoothing=0.1),
    "mixed": MIXED,
}


def build_losses(config: LossConfig) -> list[TaskLoss]:
    """Returns the losses of tasks with one positive in a hundred samples."""
    rare = ClassShares(np.array([990, 10]), np.array([0.99, 0.01]))
    return build_task_losses(config, binary_tasks(NUM_TASKS), lambda _: rare)


def build_step(config: LossConfig) -> OurStep:
    """Returns a step that has run on every route: the optimizer makes the states of a head when its route runs first."""
    model = build_resnet(NUM_TASKS, SIZE, NUM_ROUTES)
    step = OurStep(build_accelerator("fp32"), model, SIZE, losses=build_losses(config))
    for _ in range(NUM_ROUTES):
        step()
    return step


def loss_alone(step: OurStep, losses: Sequence[TaskLoss]) -> Workload:
    """Returns the loss of a slot with its backward pass, down to the logits."""
    routes, device = step.model.routes, step.accelerator.device
    num_tasks = len(routes.tasks_of[0])
    loss = RouteLoss(routes, step.model.num_classes, np.ones(NUM_TASKS), device, losses)
    logits = torch.randn(BATCH, 2 * num_tasks, device=device, requires_grad=True)
    labels = (torch.arange(BATCH, device=device) % 2)[:, None].repeat(1, num_tasks)
    return lambda: loss(0, logits, labels).backward()


def share_of_step(config: LossConfig, _: Conditions) -> tuple[Workload, Workload]:
    step = build_step(LossConfig())
    return loss_alone(step, build_losses(config)), step


def mixed_step(_: Conditions) -> tuple[Workload, Workload]:
    return build_step(MIXED), build_step(LossConfig())


def figures(conditions: Conditions) -> list[Figure]:  # noqa: ARG001
    shares = [
        Figure(f"loss_{name}_share_of_step", f"the loss {name} ÷ a step, ≤ 0.05", timed(partial(share_of_step, config)))
        for name, config in CASES.items()
    ]
    return [
        *shares,
        Figure("step_mixed_vs_cross_entropy", "a step, mixed losses ÷ cross-entropy, ≤ 1.05", timed(mixed_step)),
    ]
