"""The optimizer, and the learning rate as a pure function of the step."""

import math
from dataclasses import dataclass
from typing import Literal

import torch

from matl_scale.automatic import AUTO, Auto, chosen
from matl_scale.errors import InputError, check_at_least
from matl_scale.models.network import RoutedModel
from matl_scale.train.length import Length

WARMUP_SHARE = 0.05  # of a run, with `auto`


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Optimizer and schedule."""

    name: Literal["adamw", "sgd"] = "adamw"
    """`adamw`, or `sgd` with Nesterov momentum off."""
    lr: float | Auto = "auto"
    """Learning rate after the warm-up; a cosine takes it to zero at the end. `auto`: by optimizer and images per step."""
    head_lr_scale: float | Auto = "auto"
    """Factor on the learning rate of the heads, and of affine weights per route. They step only when their route is drawn; `auto`
    makes up for that."""
    weight_decay: float = 0.01
    """Weight decay of conv and linear weights; biases and norm weights do not decay."""
    momentum: float = 0.9
    """Momentum of SGD, or β₁ of AdamW."""
    warmup_steps: int | Auto = "auto"
    """Steps over which the learning rate rises linearly from zero. `auto`: a twentieth of the run."""

    def __post_init__(self) -> None:
        for key in ("lr", "head_lr_scale", "weight_decay", "warmup_steps"):
            check_at_least(0, {f"optim.{key}": getattr(self, key)})
        if not 0 <= self.momentum < 1:
            raise InputError(f"`optim.momentum` should be at least 0 and below 1. Got {self.momentum}.")


def build_optimizer(config: OptimConfig, model: RoutedModel, fused: bool = True) -> torch.optim.Optimizer:
    """Builds the optimizer over trunk, heads and affine weights of routes, as far as they are trained. Its step leaves a
    parameter without gradient unchanged.

    Args:
        config: The section `optim`.
        model: The network.
        fused: Whether to use torch's single-pass kernels for the trunk. Not with a gradient scaler, which would skip updates
            inside them without telling. What belongs to one route never uses them: fused SGD fails where some of its
            parameters have had no gradient yet.
    """
    groups = []
    for part, scale, fused_part in (
        (model.trunk, 1.0, fused),
        (model.heads, chosen(config.head_lr_scale), False),
        (model.affine, chosen(config.head_lr_scale), False),
    ):
        trained = [] if part is None else [parameter for parameter in part.parameters() if parameter.requires_grad]
        matrices = [parameter for parameter in trained if parameter.ndim > 1]
        vectors = [parameter for parameter in trained if parameter.ndim <= 1]
        for parameters, decay in ((matrices, config.weight_decay), (vectors, 0.0)):
            if parameters:
                group = {"params": parameters, "weight_decay": decay, "lr_scale": scale, "fused": fused_part or None}
                groups.append(group)
    if config.name == "sgd":
        return torch.optim.SGD(groups, lr=chosen(config.lr), momentum=config.momentum)
    return torch.optim.AdamW(groups, lr=chosen(config.lr), betas=(config.momentum, 0.999))


@dataclass(frozen=True, kw_only=True)
class LearningRate:
    """A cosine from the peak to zero (Loshchilov, Hutter, 2017, arXiv 1608.03983), which a linear warm-up rises to."""

    peak: float  # the highest rate, but for what the cosine has lost in the warm-up
    warmup_steps: int | Auto  # steps of the warm-up; `auto` is a share of the run
    length: Length  # of the whole run

    def at(self, step: int) -> float:
        """Returns the rate of the step that follows `step` steps."""
        progress = self.length.progress(step)
        if self.warmup_steps == AUTO:
            warm = max(progress, 1 / self.length.num_steps) / WARMUP_SHARE
        else:
            warm = (step + 1) / max(self.warmup_steps, 1)
        return self.peak * min(0.5 * (1 + math.cos(math.pi * progress)), warm)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Sets the learning rate of all parameter groups, multiplied by each group's own factor."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]
