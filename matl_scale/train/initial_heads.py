"""The heads with which a run starts.

Biases are the log-frequencies of the classes, so that the first steps need not teach every head which class is the usual one.
Where labels are seldom positive, that decides what is learned: from zero, all heads of a route first move against the same mean
feature, and the trunk's features go with them (Lin, Goyal, Girshick, He, Dollár, ICCV 2017, arXiv 1708.02002, section 4.1).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from matl_scale.data.loading.plan import RouteOrder
from matl_scale.models.network import RoutedModel
from matl_scale.seeds import derive_seed
from matl_scale.tasks import Task
from matl_scale.train.build_losses import class_shares_of
from matl_scale.train.config import Config
from matl_scale.train.losses.class_weights import initial_logits
from matl_scale.train.losses.task_loss import TaskLoss
from matl_scale.train.run_data import RunData


@dataclass(frozen=True)
class InitialHeads:
    """The first values of the heads of a network.

    Attributes:
        logits: What each task's classes have as biases, each of shape `(num_classes,)`.
        seed: Draws the weights as `nn.Linear` does; None makes them zero.
    """

    logits: Sequence[np.ndarray]
    seed: int | None

    @torch.no_grad()
    def write(self, model: RoutedModel) -> None:
        """Overwrites the heads of a network."""
        for number, (tasks, head) in enumerate(zip(model.routes.tasks_of_head, model.heads, strict=True)):
            assert isinstance(head, nn.Linear)
            head.bias.copy_(torch.from_numpy(np.concatenate([self.logits[task] for task in tasks])))
            nn.init.zeros_(head.weight)
            if self.seed is not None:
                generator = torch.Generator().manual_seed(derive_seed(self.seed, "head", number))
                bound = 1 / math.sqrt(head.in_features)
                # drawn in float32 on the CPU, so that every device and type gets the same numbers
                drawn = torch.empty(head.weight.shape, dtype=torch.float32)
                head.weight.copy_(drawn.uniform_(-bound, bound, generator=generator))


def build_initial_heads(
    config: Config, data: RunData, order: RouteOrder, losses: Sequence[TaskLoss], num_slots: int
) -> InitialHeads:
    """Builds the heads that a run starts with, in steps of `num_slots` micro-steps over all ranks.

    Weights are random where every step trains every head, and the trunk is new as well: its first gradients come through them.
    Else they are zero, so that a head's first step points from one class mean to the other: with hundreds of routes a head is
    trained rarely, and random weights would outweigh what its few steps teach it; and a trained trunk would be pulled out of
    shape by them.
    """
    is_new = not (config.model.is_trained or config.model.is_heads_alone or config.run.start_from)
    is_random = is_new and order.routes.num_routes <= num_slots
    return InitialHeads(find_initial_logits(data.tasks, order, losses), config.run.seed if is_random else None)


def find_initial_logits(tasks: Sequence[Task], order: RouteOrder, losses: Sequence[TaskLoss]) -> list[np.ndarray]:
    """Returns for each task the logits of its classes that have the smallest loss if all samples have the same, shape
    `(num_classes,)`; zeros for a task that is not trained."""
    return [
        initial_logits(class_shares_of(order, task_id, task), loss.class_weights, loss.adjustment, loss.smoothing)
        for task_id, (task, loss) in enumerate(zip(tasks, losses, strict=True))
    ]
