"""Backbones by name, and the whole network: a routed trunk and one linear head per task. Plain `nn.Module`s."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import fx, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from matl_scale.models.backbones import ModelConfig, build_backbone, count_features
from matl_scale.routing.batch_norm import Statistics
from matl_scale.routing.masks import EarlierMasks, MaskSpec, Strategy
from matl_scale.routing.surgery import route_by_spec
from matl_scale.tasks import Task

Execution = Literal["subnetwork", "masked"]


@dataclass(frozen=True, kw_only=True)
class RoutingConfig:
    """Which part of the trunk each task uses."""

    sigma: float = 0.5
    """Sharing ratio σ: the fraction of every layer's units that a task keeps. 1 = all shared (hard sharing)."""
    strategy: Strategy = "random"
    """`random` units per task, or `partition`: σ of the units common to all tasks, the rest split between them."""
    statistics: Statistics = "task"
    """Running norm statistics per `task`, or `shared` by all tasks (to compare with)."""
    execution: Execution = "subnetwork"
    """`subnetwork` computes only the active task's units; `masked` computes all and switches the others off: the same
    result at the cost of the whole network, for backbones with layers that cannot be sliced."""
    align: int = 1
    """Every task keeps a multiple of so many units of each layer; 8 suits the matrix units of GPUs. The run's config.yaml
    says what sigma came to."""

    def mask_spec(self, num_tasks: int, seed: int) -> MaskSpec:
        """Returns how the masks of a network with `num_tasks` tasks are drawn."""
        return MaskSpec(num_tasks=num_tasks, sigma=self.sigma, strategy=self.strategy, align=self.align, seed=seed)


class RoutedModel(nn.Module):
    """A routed trunk and a linear head per task.

    Args:
        trunk: From `route()`: `(images, task) → features`.
        num_classes: Of each task, in task order.
        num_features: Of the trunk's output.
    """

    def __init__(self, trunk: fx.GraphModule, num_classes: Sequence[int], num_features: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.heads = nn.ModuleList(nn.Linear(num_features, count) for count in num_classes)

    def forward(self, images: torch.Tensor, task_id: int) -> torch.Tensor:
        """Returns the logits of one task.

        Args:
            images: Shape `(batch, 3, height, width)`.
            task_id: The active task.

        Returns:
            Shape `(batch, num_classes of the task)`.
        """
        task = torch.tensor([task_id], device=images.device)
        return cast(torch.Tensor, self.heads[task_id](self.trunk(images, task)))


def build_model(
    model: ModelConfig,
    routing: RoutingConfig,
    tasks: Sequence[Task],
    seed: int,
    image_size: int,
    earlier: EarlierMasks | None = None,
) -> RoutedModel:
    """Builds the network; weights and masks are a pure function of the arguments.

    Args:
        model: The backbone.
        routing: Which part of it each task uses.
        tasks: A head each.
        seed: Of weights and masks.
        image_size: Side length in pixels of the images it will see.
        earlier: Masks of tasks that another network has had.

    Raises:
        InputError: The backbone is unknown, cannot be routed or does not run on such images, or σ leaves a layer
            without units.
    """
    backbone = build_backbone(model, seed)
    num_features = count_features(backbone, model, image_size)
    trunk = route_by_spec(backbone, routing.mask_spec(len(tasks), seed), routing.statistics, earlier)
    network = RoutedModel(trunk, [task.num_classes for task in tasks], num_features)
    for head in network.heads:
        init_head(cast(nn.Linear, head))
    return network


def init_head(head: nn.Linear) -> None:
    """Starts a head at zero: its first step then points from one class mean to the other.

    Among hundreds of tasks a head is seldom drawn, and a random start would outweigh what its few steps teach it.
    """
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)


def build_ema(model: RoutedModel, decay: float) -> AveragedModel | None:
    """Returns the moving average of the weights; buffers (masks, statistics) are those of the model."""
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay)) if decay else None
