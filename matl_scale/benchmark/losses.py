"""Suite `losses`: what a loss adds to a training step, beside cross-entropy: 312 binary tasks on 16 routes.

Both sides are the program's own step of a ResNet-18 at σ = 0.5 with 32 images of 64 pixels, and differ in the loss alone.
"""

from functools import partial

import numpy as np

from matl_scale.benchmark.figure import Conditions, Figure, Workload, timed
from matl_scale.benchmark.inputs import binary_tasks, build_resnet
from matl_scale.benchmark.training_step import OurStep
from matl_scale.train.losses.class_weights import ClassShares
from matl_scale.train.losses.config import LossConfig
from matl_scale.train.losses.task_loss import build_task_losses
from matl_scale.train.process_group import build_accelerator

NUM_TASKS, NUM_ROUTES, SIZE = 312, 16, 64
CASES = {
    "focal": LossConfig(name="focal"),
    "asymmetric": LossConfig(name="asymmetric"),
    "logit_adjusted": LossConfig(name="logit_adjusted"),
    "weighted": LossConfig(class_weight="inverse", label_smoothing=0.1),
    "mixed": LossConfig(
        name={"task_*0": "focal", "task_*1": "asymmetric", "task_*2": "logit_adjusted"},
        class_weight="inverse",
        label_smoothing=0.1,
    ),
}


def build_step(config: LossConfig) -> OurStep:
    """Returns the step with a loss, of tasks with one positive in a hundred samples."""
    rare = ClassShares(np.array([990, 10]), np.array([0.99, 0.01]))
    losses = build_task_losses(config, binary_tasks(NUM_TASKS), lambda _: rare)
    return OurStep(build_accelerator("fp32"), build_resnet(NUM_TASKS, SIZE, NUM_ROUTES), SIZE, losses=losses)


def against_cross_entropy(config: LossConfig, _: Conditions) -> tuple[Workload, Workload]:
    steps = build_step(config), build_step(LossConfig())
    for step in steps:
        for _route in range(NUM_ROUTES):  # the optimizer makes the states of a head when its route runs first
            step()
    return steps


def figures(conditions: Conditions) -> list[Figure]:  # noqa: ARG001
    return [
        Figure(
            f"step_{name}_vs_cross_entropy",
            f"{name} ÷ cross-entropy, ≤ 1.05",
            timed(partial(against_cross_entropy, config)),
        )
        for name, config in CASES.items()
    ]
