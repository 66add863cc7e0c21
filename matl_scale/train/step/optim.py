"""The optimizer, and the learning rate as a pure function of the step."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import fx, nn

from matl_scale.automatic import AUTO, Auto, chosen
from matl_scale.errors import InputError, check_at_least
from matl_scale.models.network import RoutedModel
from matl_scale.routing.blocks import number_blocks
from matl_scale.train.length import Length
from matl_scale.train.step.optimizers import OPTIMIZERS, OptimizerName, make_optimizer

WARMUP_SHARE = 0.05  # of a run, with `auto`
COOLDOWN_SHARE = 0.2  # of a run, with `wsd`
RateSchedule = Literal["cosine", "wsd", "constant"]


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Optimizer and schedule."""

    name: OptimizerName = "adamw"
    """`adamw`; `sgd` with Nesterov momentum off; or, with the extra `timm`, `lion`, `lamb`, or `muon`, whose steps are orthogonal
    matrices (vectors, depthwise convs and heads have AdamW)."""
    lr: float | Auto = "auto"
    """Learning rate after the warm-up. `auto`: by optimizer and images per step."""
    schedule: RateSchedule = "cosine"
    """What follows the warm-up: `cosine` takes the rate to zero over the whole run; `wsd` keeps it, and takes it to zero in the
    last fifth; `constant` keeps it."""
    head_lr_scale: float | Auto = "auto"
    """Factor on the learning rate of the heads, and of affine weights per route. They step only when their route is drawn; `auto`
    makes up for that."""
    weight_decay: float = 0.01
    """Weight decay of conv and linear weights; biases and norm weights do not decay."""
    momentum: float = 0.9
    """Momentum of SGD and Muon, or β₁ of the others."""
    warmup_steps: int | Auto = "auto"
    """Steps over which the learning rate rises linearly from zero. `auto`: a twentieth of the run."""
    layer_decay: float = 1.0
    """Factor on the learning rate from each block of the trunk to the one before it, and from the heads to the last block; 1 is
    the same rate everywhere."""
    head_warmup: float = 0.0
    """Share of the run, at its beginning, in which heads are trained alone; the rate of the trunk rises after it. 0 trains
    everything from the first step. Heads that know nothing would pull a trained trunk out of shape (Kumar et al., ICLR 2022,
    arXiv 2202.10054)."""

    def __post_init__(self) -> None:
        for key in ("lr", "head_lr_scale", "weight_decay", "warmup_steps"):
            check_at_least(0, {f"optim.{key}": getattr(self, key)})
        for key in ("momentum", "head_warmup"):
            if not 0 <= getattr(self, key) < 1:
                raise InputError(f"`optim.{key}` should be at least 0 and below 1. Got {getattr(self, key)}.")
        if not 0 < self.layer_decay <= 1:
            raise InputError(f"`optim.layer_decay` should be above 0 and at most 1. Got {self.layer_decay}.")


@torch.no_grad()
def match_formats(optimizer: torch.optim.Optimizer) -> None:
    """Gives what an optimizer keeps of each parameter, as it was loaded, the parameter's memory format: torch's fused optimizers
    take the numbers of both in the order in which they lie in memory."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            kept = optimizer.state.get(parameter, {})
            for name, value in kept.items():
                if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                    kept[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def build_optimizer(config: OptimConfig, model: RoutedModel, fused: bool = True) -> torch.optim.Optimizer:
    """Builds the optimizer over trunk, heads and affine weights of routes, as far as they are trained. Its step leaves a
    parameter without gradient unchanged.

    Args:
        config: The section `optim`.
        model: The network.
        fused: Whether to use torch's single-pass kernels. Not with a gradient scaler, which would skip updates inside them
            without telling. What belongs to one route has none of SGD's, which fails where some of its parameters have had no
            gradient yet.
    """
    head_scale, begin = chosen(config.head_lr_scale), config.head_warmup
    fused_heads = (fused and config.name != "sgd") or None
    parts: list[tuple[list[nn.Parameter], dict[str, Any]]] = [
        (part, {"lr_scale": scale, "begin": begin, "fused": fused or None})
        for part, scale in scale_trunk(model.trunk, config)
    ]
    heads = {"lr_scale": head_scale, "begin": 0.0, "fused": fused_heads, "use_fallback": True}
    rows = {"lr_scale": head_scale, "begin": begin, "fused": fused_heads}
    by_group = OPTIMIZERS[config.name].counts_by_group
    if config.name == "lamb":  # steps in proportion to weights that begin with zeros would hardly move them
        heads["weight_decay"] = 0.0  # with which timm's has Adam's steps
    parts += [(list(part.parameters()), heads) for part in (model.heads if by_group else [model.heads])]
    if model.affine is not None:
        own_rows = list(model.affine.parameters())
        parts += [(part, rows) for part in ([[row] for row in own_rows] if by_group else [own_rows])]
    groups = []
    for part, settings in parts:
        trained = [parameter for parameter in part if parameter.requires_grad]
        matrices = [parameter for parameter in trained if parameter.ndim > 1]
        vectors = [parameter for parameter in trained if parameter.ndim <= 1]
        for parameters, decay in ((matrices, config.weight_decay), (vectors, 0.0)):
            if parameters:
                groups.append({"params": parameters, "weight_decay": decay, **settings})
    return make_optimizer(config.name, groups, lr=chosen(config.lr), momentum=config.momentum)


def scale_trunk(trunk: fx.GraphModule, config: OptimConfig) -> list[tuple[list[nn.Parameter], float]]:
    """Returns the parameters of a trunk in groups, each with its factor on the learning rate. Heads have 1, the last block
    `layer_decay`, and each block before it `layer_decay` times the factor of the next (Clark, Luong, Le, Manning, ELECTRA, ICLR
    2020, arXiv 2003.10555; for images: Bao, Dong, Piao, Wei, BEiT, ICLR 2022, arXiv 2106.08254)."""
    if config.layer_decay == 1 or not list(trunk.parameters()):
        return [(list(trunk.parameters()), 1.0)]
    numbers = number_blocks(trunk)
    num_blocks = max(numbers.values()) + 1
    groups: list[list[nn.Parameter]] = [[] for _ in range(num_blocks)]
    for name, parameter in trunk.named_parameters():
        groups[numbers[name]].append(parameter)
    return [(group, config.layer_decay ** (num_blocks - number)) for number, group in enumerate(groups)]


@dataclass(frozen=True, kw_only=True)
class LearningRate:
    """The learning rate over a run, which begins with a linear warm-up.

    `cosine` falls from the peak to zero (Loshchilov, Hutter, 2017, arXiv 1608.03983). `wsd` is the peak, and in the last part of
    the run 1 − √ of how much of that part is done (Hägele, Bakouch, Kosson, Ben Allal, Von Werra, Jaggi, NeurIPS 2024, arXiv
    2405.18392).
    """

    peak: float  # the highest rate, but for what a cosine has lost in the warm-up
    warmup_steps: int | Auto  # steps of the warm-up; `auto` is a share of the run
    length: Length  # of the whole run
    schedule: RateSchedule = "cosine"

    def at(self, step: int, begin: float = 0.0) -> float:
        """Returns the rate of the step that follows `step` steps, for what is trained from the share `begin` of the run on."""
        progress = self.length.progress(step)
        if self.warmup_steps == AUTO:
            warm = max(progress - begin, 1 / self.length.num_steps) / WARMUP_SHARE
        else:
            warm = (step + 1 - self.length.step_at(begin)) / max(self.warmup_steps, 1)
        return self.peak * min(self._after_warmup(progress), max(warm, 0.0))

    def _after_warmup(self, progress: float) -> float:
        if self.schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * progress))
        if self.schedule == "wsd":
            return 1 - math.sqrt(max(1 - (1 - progress) / COOLDOWN_SHARE, 0.0))
        return 1.0


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: LearningRate, step: int) -> None:
    """Sets the learning rate of all parameter groups for the step that follows `step` steps: by when each begins to be trained,
    multiplied by its own factor."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate.at(step, group["begin"]) * group["lr_scale"]
