"""What a label costs, by the book: one sample of one task at a time, with the formulas of the papers. Slow and obvious."""

import math
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch

from matl_scale.tasks import Task
from matl_scale.train.losses.config import LossConfig


def by_pattern(setting: Any, task: Task, default: Any) -> Any:
    if not isinstance(setting, dict):
        return setting
    found = [value for pattern, value in setting.items() if fnmatchcase(task.name, pattern)]
    return found[-1] if found else default


class TaskReference:
    """The loss of one task.

    Args:
        config: The section `loss`.
        missing: `data.missing`.
        task: The task.
        labels: Its labels in the training split, −1 = none.
    """

    def __init__(self, config: LossConfig, missing: Any, task: Task, labels: Sequence[int]) -> None:
        self.config, self.num_classes = config, task.num_classes
        self.missing = by_pattern(missing, task, "ignore")
        self.name = by_pattern(config.name, task, "cross_entropy")
        self.task_weight = by_pattern(config.task_weight, task, 1.0)
        trained = [0 if label < 0 and self.missing == "negative" else label for label in labels]
        trained = [label for label in trained if label >= 0]
        counts = [sum(label == c for label in trained) for c in range(self.num_classes)]
        weights = self.raw_weights(by_pattern(config.class_weight, task, "none"), task, counts)
        mean = sum(weights[label] for label in trained) / len(trained)
        self.weights = [weight / mean for weight in weights]
        self.frequencies = [count / len(trained) for count in counts]
        self.trained_for = [f * w for f, w in zip(self.frequencies, self.weights, strict=True)]
        self.trained_for = [f or 1 / len(trained) for f in self.trained_for]

    def raw_weights(self, scheme: Any, task: Task, counts: list[int]) -> list[float]:
        beta, n = self.config.beta, [max(count, 1) for count in counts]
        if isinstance(scheme, dict):
            return [scheme.get(name, 1.0) for name in task.classes]
        return {
            "none": [1.0 for _ in n],
            "inverse": [1 / m for m in n],
            "sqrt": [1 / math.sqrt(m) for m in n],
            "effective": [(1 - beta) / (1 - beta**m) for m in n],
        }[scheme]

    def first_logits(self) -> list[float]:
        """Returns the biases that a head starts with: logits that give the classes their frequencies in training, with mean 0."""
        epsilon = self.config.label_smoothing
        logits = [math.log((1 - epsilon) * f + epsilon / self.num_classes) for f in self.trained_for]
        if self.name == "logit_adjusted":
            logits = [x - self.config.tau * math.log(f) for x, f in zip(logits, self.trained_for, strict=True)]
        return [x - sum(logits) / len(logits) for x in logits]

    def has_target(self, label: int) -> bool:
        return label >= 0 or self.missing != "ignore"

    def cost(self, logits: torch.Tensor, label: int) -> torch.Tensor:
        """Returns what a sample costs that has a target, from its logits, shape `(num_classes,)`."""
        if label >= 0:
            return self.task_weight * self.cost_of_label(logits, label)
        if self.missing == "negative":
            return self.task_weight * self.cost_of_label(logits, 0)
        mean = sum(self.frequencies[c] * self.cost_of_label(logits, c) for c in range(self.num_classes))
        return torch.as_tensor(self.task_weight * mean)

    def cost_of_label(self, logits: torch.Tensor, label: int) -> torch.Tensor:
        epsilon = self.config.label_smoothing
        costs = [self.cost_of_class(logits, c) for c in range(self.num_classes)]
        return self.weights[label] * ((1 - epsilon) * costs[label] + epsilon * torch.stack(costs).mean())

    def cost_of_class(self, logits: torch.Tensor, label: int) -> torch.Tensor:
        config = self.config
        if self.name == "logit_adjusted":
            logits = logits + config.tau * torch.tensor([math.log(f) for f in self.trained_for], dtype=logits.dtype)
        p = logits.exp() / logits.exp().sum()
        if self.name == "focal":
            return -((1 - p[label]) ** config.gamma) * p[label].log()
        if self.name == "asymmetric" and label == 1:
            return -((1 - p[1]) ** config.gamma_positive) * p[1].log()
        if self.name == "asymmetric":
            shifted = (p[1] - config.margin).clamp(min=0)
            return -(shifted**config.gamma_negative) * (1 - shifted).log()
        return -p[label].log()


def build_references(
    config: LossConfig, missing: Any, tasks: Sequence[Task], labels: np.ndarray
) -> list[TaskReference]:
    """Returns the loss of each task, from the labels of the training split, shape `(num_samples, num_tasks)`."""
    return [TaskReference(config, missing, task, labels[:, i].tolist()) for i, task in enumerate(tasks)]
