"""Optimizers by name: torch's own, and those of timm.

A head steps only when its route is drawn: in other steps it has no gradient, and nothing of it may change. So an optimizer has to
count the steps of each parameter, or of groups that step as one. Schedule-free ones are left out: they evaluate weights that are
far from those whose activations the batch norms of each route have measured.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

from matl_scale.models.from_timm.library import load_timm

OptimizerName = Literal["adamw", "sgd", "lion", "lamb", "muon"]
BETA_2 = 0.999
LION_BETA_2 = 0.99  # Chen et al., Symbolic discovery of optimization algorithms, NeurIPS 2023, arXiv 2302.06675


@dataclass(frozen=True, kw_only=True)
class OptimizerFacts:
    """What the rest of the program has to know of an optimizer."""

    usual_rate: float  # with steps of `rules.USUAL_STEP_IMAGES` images
    max_rate: float
    moments: int  # numbers that it keeps for each weight
    counts_by_group: bool = False  # whether it counts the steps of a group, for its bias correction


OPTIMIZERS: Mapping[OptimizerName, OptimizerFacts] = {
    "adamw": OptimizerFacts(usual_rate=0.003, max_rate=0.004, moments=2),
    "sgd": OptimizerFacts(usual_rate=0.1, max_rate=0.4, moments=1),
    "lion": OptimizerFacts(usual_rate=0.001, max_rate=0.003, moments=1),
    "lamb": OptimizerFacts(usual_rate=0.01, max_rate=0.02, moments=2, counts_by_group=True),
    "muon": OptimizerFacts(usual_rate=0.003, max_rate=0.004, moments=2),
}


def make_optimizer(
    name: OptimizerName, groups: list[dict[str, Any]], lr: float, momentum: float
) -> torch.optim.Optimizer:
    """Makes an optimizer whose step leaves parameters without a gradient as they are.

    Args:
        name: See `OptimConfig.name`.
        groups: Groups of parameters with their settings; for an optimizer that counts by group, those of a group have gradients
            in the same steps. `fused` counts for torch's optimizers, `use_fallback` for Muon.
        lr: Learning rate.
        momentum: Momentum, or β₁.

    Raises:
        InputError: timm is needed, and not installed.
    """
    if name == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=momentum)
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=lr, betas=(momentum, BETA_2))
    timm_optim = load_timm(f"`optim.name` = {name}").optim
    optimizer: torch.optim.Optimizer
    if name == "lion":
        optimizer = timm_optim.Lion(groups, lr=lr, betas=(momentum, LION_BETA_2))
    elif name == "lamb":
        # the gradient is clipped by `train.clip_norm`
        optimizer = timm_optim.Lamb(groups, lr=lr, betas=(momentum, BETA_2), max_grad_norm=None)
        count_steps_with_gradient(optimizer)
    else:
        # with this factor for the shape of a matrix, steps are as large as AdamW's (Liu et al., Muon is scalable for LLM
        # training, 2025, arXiv 2502.16982)
        optimizer = timm_optim.Muon(
            groups, lr=lr, momentum=momentum, nesterov=False, betas=(momentum, BETA_2), adjust_lr_fn="match_rms_adamw"
        )
    return optimizer


def count_steps_with_gradient(optimizer: torch.optim.Optimizer) -> None:
    """Lets an optimizer that counts the steps of its groups count only those in which a group has a gradient, by hiding the other
    groups from it."""
    all_groups: list[list[dict[str, Any]]] = []

    def hide(*_: Any) -> None:
        all_groups.append(optimizer.param_groups)
        optimizer.param_groups = [
            group for group in optimizer.param_groups if any(p.grad is not None for p in group["params"])
        ]

    def show(*_: Any) -> None:
        optimizer.param_groups = all_groups.pop()

    optimizer.register_step_pre_hook(hide)
    optimizer.register_step_post_hook(show)
