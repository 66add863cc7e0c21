"""The whole network: a routed trunk, the heads of the tasks on each route, and the images that it expects."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import fx, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from matl_scale.automatic import AUTO, Auto
from matl_scale.errors import InputError
from matl_scale.routes import Routes
from matl_scale.routing.affine import AffineWeights, RouteAffine, affine_norms, initial_affine

if TYPE_CHECKING:
    from matl_scale.models.config import ModelConfig
    from matl_scale.models.routing_config import RoutingConfig
    from matl_scale.routing.masks import EarlierMasks, UnitScores

# of ImageNet's training images, in the order R, G, B: what torchvision's weights expect
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
MANY_TASKS = 32  # with fewer, the heads cost nothing beside the trunk
REACH = 20  # steps so far ÷ those that their moving average reaches back over


class RoutedModel(nn.Module):
    """A routed trunk, a linear head for each task, and the affine weights of routes that have their own.

    The heads of a route's tasks are the rows of one matrix, `heads[i]`, with the classes of one task after those of another.

    Args:
        trunk: From `route()`: `(images, route) → features`.
        num_classes: The number of classes of each task, in task order.
        num_features: The number of features that the trunk returns.
        routes: Which tasks each route serves; None gives every task a route of its own.
        image_size: The size in pixels of the images that it is for; None if it is not known. Only counts of multiply-adds
            need it.
        mean: Mean of the images that it is for, per channel, where 1 is the largest value.
        std: Their standard deviation.
    """

    def __init__(
        self,
        trunk: fx.GraphModule,
        num_classes: Sequence[int],
        num_features: int,
        routes: Routes | None = None,
        image_size: int | None = None,
        mean: Sequence[float] = MEAN,
        std: Sequence[float] = STD,
    ) -> None:
        super().__init__()
        self.mean, self.std = tuple(mean), tuple(std)
        self.trunk, self.num_classes, self.image_size = trunk, list(num_classes), image_size
        self.routes = routes or Routes.one_per_task([str(task) for task in range(len(self.num_classes))])
        sizes = [sum(self.num_classes[task] for task in tasks) for tasks in self.routes.tasks_of_head]
        self.heads = nn.ModuleList(nn.Linear(num_features, size) for size in sizes)
        initial = initial_affine(trunk)
        self.affine = RouteAffine(initial, self.routes.num_routes) if initial else None

    def forward(self, images: torch.Tensor, route_id: int) -> torch.Tensor:
        """Returns the logits of all tasks of one route.

        Args:
            images: Shape `(batch, 3, height, width)`.
            route_id: The active route.

        Returns:
            Shape `(batch, num_classes of all its tasks)`, task by task in the order of `routes.tasks_of[route_id]`.
        """
        route = torch.tensor([route_id], device=images.device)
        return self.classify(self.trunk(images, route, self.affine_of(route_id)), route_id)

    def classify(self, features: torch.Tensor, route_id: int) -> torch.Tensor:
        """Returns the logits of all tasks of a route for features of shape `(batch, num_features)`."""
        logits = [self.heads[head](features) for head in self.routes.heads_of[route_id]]
        return logits[0] if len(logits) == 1 else torch.cat(logits, dim=1)

    def classify_relative(self, features: torch.Tensor, route_id: int) -> torch.Tensor:
        """Does what `classify` does. With many tasks, all binary, it returns what the logit of class 1 is above that of class 0,
        which is all that a loss sees, in half the time: shape `(batch, num_tasks)`."""
        if not self._is_binary(route_id):
            return self.classify(features, route_id)
        parts = []
        for head in self.heads_of(route_id):
            weight, bias = head.weight.view(-1, 2, head.in_features), head.bias.view(-1, 2)
            parts.append(nn.functional.linear(features, weight[:, 1] - weight[:, 0], bias[:, 1] - bias[:, 0]))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def _is_binary(self, route_id: int) -> bool:
        """Whether a route has many tasks, all with two classes."""
        tasks = self.routes.tasks_of[route_id]
        return len(tasks) >= MANY_TASKS and all(self.num_classes[task] == 2 for task in tasks)

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """Returns the network's input for uint8 images, shape `(batch, 3, height, width)`; for features, shape `(batch,
        num_features)`, these in the network's type."""
        if images.is_floating_point():
            return images.to(torch.get_default_dtype())
        return normalise(images, self.mean, self.std)

    def heads_of(self, route_id: int) -> list[nn.Linear]:
        """Returns the head matrices of a route."""
        return [cast(nn.Linear, self.heads[head]) for head in self.routes.heads_of[route_id]]

    def affine_of(self, route_id: int) -> AffineWeights:
        """Returns the affine weights of a route's norms, for the trunk; None if all routes share them."""
        return None if self.affine is None else self.affine.of(route_id)

    def own_parameters(self, route_id: int) -> list[nn.Parameter]:
        """Returns the parameters that belong to a route alone: its head matrices, and its affine weights if it has any."""
        heads = [parameter for head in self.heads_of(route_id) for parameter in head.parameters()]
        return heads + ([] if self.affine is None else [self.affine.rows[route_id]])


def build_model(
    model: "ModelConfig",
    routing: "RoutingConfig",
    num_classes: Sequence[int],
    seed: int,
    image_size: int,
    routes: Routes | None = None,
    earlier: "EarlierMasks | UnitScores | None" = None,
    closeness: np.ndarray | None = None,
    outline: bool = False,
) -> RoutedModel:
    """Builds the network for images of `image_size` pixels. Its weights and masks are a pure function of the arguments; routes
    may keep masks of an earlier network, or the units that scored highest in it. Without `routes`, every task has its own. The
    strategy `affinity` lays masks by the `closeness` of routes, see `Closeness`. In an `outline`, the trunk's weights have no
    values: it is there to be counted (`matl_scale.models.cost`), and cannot run.

    Raises:
        InputError: The backbone is unknown, cannot be routed or does not run on such images, σ leaves a layer without units,
            or routes should have affine weights and there are no norms.
    """
    # here, because a network that is read from a hub folder is run without torchvision
    from matl_scale.models.backbones import build_backbone, build_backbone_outline, count_features
    from matl_scale.routing.surgery import pass_through, route_by_spec

    backbone = build_backbone_outline(model, seed) if outline else build_backbone(model, seed)
    num_features = count_features(backbone, model, image_size)
    spec = routing.mask_spec(len(num_classes) if routes is None else routes.num_routes, seed, closeness)
    drop_path = None if model.drop_path == AUTO else model.drop_path
    trunk = (
        pass_through(num_features)
        if model.is_heads_alone
        else route_by_spec(
            backbone,
            spec,
            routing.norm_statistics,
            earlier,
            routing.affine,
            drop_path,
            model.input_shape,
        )
    )
    if routing.affine == "route" and not affine_norms(trunk):
        raise InputError(
            f"`routing.affine` = route needs norms in the routed layers, and `{model.name}` has none there. Set it to shared."
        )
    mean, std = (MEAN if model.mean == AUTO else model.mean), (STD if model.std == AUTO else model.std)
    network = RoutedModel(trunk, num_classes, num_features, routes, image_size, mean, std)
    for parameter in network.heads.parameters():  # a run starts with others, which depend on its labels
        nn.init.zeros_(parameter)
    return network


def count_bytes(module: nn.Module) -> int:
    """Returns the size of a module's parameters."""
    return sum(parameter.nbytes for parameter in module.parameters())


def normalise(images: torch.Tensor, mean: Sequence[float] = MEAN, std: Sequence[float] = STD) -> torch.Tensor:
    """Returns a network's input for uint8 images, shape `(batch, 3, height, width)`: floats of the default type, from 0 to 1,
    minus `mean` and divided by `std`, per channel."""
    dtype = torch.get_default_dtype()
    shift, scale = (
        255 * torch.tensor(values, dtype=dtype, device=images.device)[:, None, None] for values in (mean, std)
    )
    return images.to(dtype, copy=True).sub_(shift).div_(scale)  # in place: fresh memory costs more than the sums


def move_model(model: RoutedModel, device: torch.device, channels_last: bool) -> RoutedModel:
    """Moves a network to a device and into torch's default dtype, in place; returns it."""
    model.to(device=device, dtype=torch.get_default_dtype())
    if channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model


def build_ema(model: RoutedModel, decay: float | Auto) -> AveragedModel | None:
    """Returns the moving average of the weights, or None if `decay` is 0. Buffers (masks, statistics) are the model's own."""
    if decay == AUTO:
        return AveragedModel(model, multi_avg_fn=average_last_part)
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay)) if decay else None


@torch.no_grad()
def average_last_part(
    average: Sequence[torch.Tensor], weights: Sequence[torch.Tensor], num_averaged: torch.Tensor | int
) -> None:
    """Updates, in place, a moving average that reaches back over about a twentieth of all steps so far, however many there will
    be: the decay of step t is (1 - 1 / t)²⁰ (the power function average of Karras et al., CVPR 2024, arXiv 2312.02696)."""
    decay = (1 - 1 / (float(num_averaged) + 1)) ** REACH
    torch._foreach_lerp_(list(average), list(weights), 1 - decay)
