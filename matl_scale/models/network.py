"""The whole network: a routed trunk and one linear head per task, and the images that it expects."""

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

Execution = Literal["subnetwork", "masked"]

# of ImageNet's training images, in the order R, G, B: what torchvision's weights expect
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class RoutingConfig:
    """Which part of the trunk each task uses."""

    sigma: float = 0.5
    """Sharing ratio σ: the fraction of every layer's units that a task keeps. 1 = all shared (hard sharing)."""
    strategy: Strategy = "random"
    """`random` units per task, or `partition`: a fraction σ of the units common to all tasks, the others split between them."""
    statistics: Statistics = "task"
    """Running norm statistics per `task`, or `shared` by all tasks (to compare with)."""
    execution: Execution = "subnetwork"
    """`subnetwork` computes only the active task's units. `masked` computes all units and switches the others off: the same
    result at the cost of the whole network, for backbones with layers that cannot be sliced."""
    align: int = 1
    """The number of each layer's active units is a multiple of this; 8 suits the matrix units of GPUs. The run's config.yaml
    says what fraction of units that made active."""

    def mask_spec(self, num_tasks: int, seed: int) -> MaskSpec:
        """Returns how the masks of a network with `num_tasks` tasks are drawn."""
        return MaskSpec(num_tasks=num_tasks, sigma=self.sigma, strategy=self.strategy, align=self.align, seed=seed)


class RoutedModel(nn.Module):
    """A routed trunk and a linear head per task.

    Args:
        trunk: From `route()`: `(images, task) → features`.
        num_classes: The number of classes of each task, in task order.
        num_features: The number of features that the trunk returns.
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
    num_classes: Sequence[int],
    seed: int,
    image_size: int,
    earlier: EarlierMasks | None = None,
) -> RoutedModel:
    """Builds the network for images of `image_size` pixels. Its weights and masks are a pure function of the arguments; tasks may
    keep masks of an earlier network.

    Raises:
        InputError: The backbone is unknown, cannot be routed or does not run on such images, or σ leaves a layer
            without units.
    """
    backbone = build_backbone(model, seed)
    num_features = count_features(backbone, model, image_size)
    trunk = route_by_spec(backbone, routing.mask_spec(len(num_classes), seed), routing.statistics, earlier)
    network = RoutedModel(trunk, num_classes, num_features)
    # so that a head's first step points from one class mean to the other: with hundreds of tasks a head is trained rarely, and
    # random weights would outweigh what its few steps teach it
    for parameter in network.heads.parameters():
        nn.init.zeros_(parameter)
    return network


def count_bytes(module: nn.Module) -> int:
    """Returns the size of a module's parameters."""
    return sum(parameter.nbytes for parameter in module.parameters())


def normalise(images: torch.Tensor) -> torch.Tensor:
    """Returns a network's input for uint8 images, shape `(batch, 3, height, width)`: floats of the default type, normalised per
    channel by MEAN and STD."""
    dtype = torch.get_default_dtype()
    mean, std = (torch.tensor(values, dtype=dtype, device=images.device)[:, None, None] for values in (MEAN, STD))
    return (images.to(dtype) / 255 - mean) / std


def move_model(model: RoutedModel, device: torch.device, channels_last: bool) -> RoutedModel:
    """Moves a network to a device and into torch's default dtype, in place; returns it."""
    model.to(device=device, dtype=torch.get_default_dtype())
    if channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model


def build_ema(model: RoutedModel, decay: float) -> AveragedModel | None:
    """Returns the moving average of the weights, or None if `decay` is 0. Buffers (masks, statistics) are the model's own."""
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay)) if decay else None
