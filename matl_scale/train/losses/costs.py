"""Loss functions: what each class would cost if it were the label, from the logits of a task.

Each is a frozen dataclass, so that tasks with equal ones are computed together. With a label y, the loss of a sample is the
cost of class y; with a distribution over labels, the mean cost under it.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch.nn import functional


class Cost(Protocol):
    """Maps logits, shape `(…, num_classes)`, to the cost of each class as the label, same shape."""

    def __call__(self, logits: torch.Tensor) -> torch.Tensor: ...


@dataclass(frozen=True)
class CrossEntropy:
    """−log p."""

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        return -logits.log_softmax(dim=-1)


@dataclass(frozen=True)
class Focal:
    """−(1 − p)^γ log p: easy samples count less (Lin, Goyal, Girshick, He, Dollár, ICCV 2017, arXiv 1708.02002).

    p is the softmax over the classes; for two classes that is the paper's sigmoid of the difference of the logits. The paper's
    α is `loss.class_weight`.
    """

    gamma: float

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        log_p = logits.log_softmax(dim=-1)
        return -power(-log_p.expm1(), self.gamma) * log_p


@dataclass(frozen=True)
class Asymmetric:
    """−(1 − p)^γ₊ log p for a positive, −q^γ₋ log(1 − q) with q = max(p − margin, 0) for a negative, of two classes (Ridnik,
    Ben-Baruch, Zamir, Noy, Friedman, Protter, Zelnik-Manor, ICCV 2021, arXiv 2009.14119).

    p is the probability of class 1. Negatives below the margin cost nothing. Gradients go through the powers, as the paper
    derives them; the authors' code can treat these as constants.
    """

    gamma_positive: float
    gamma_negative: float
    margin: float

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        margin_of_positive = logits[..., 1] - logits[..., 0]
        p, not_p = margin_of_positive.sigmoid(), (-margin_of_positive).sigmoid()
        positive = -power(not_p, self.gamma_positive) * functional.logsigmoid(margin_of_positive)
        if self.margin:
            shifted = (p - self.margin).clamp(min=0)
            negative = -power(shifted, self.gamma_negative) * torch.log1p(-shifted)
        else:  # log(1 − p) from the logits: 1 − p is 0 where p rounds to 1
            negative = -power(p, self.gamma_negative) * functional.logsigmoid(-margin_of_positive)
        return torch.stack([negative, positive], dim=-1)


def power(base: torch.Tensor, exponent: float) -> torch.Tensor:
    """Returns the power of a number that is at least 0; its gradient at 0 is 0, where that of a root would be infinite."""
    return base.clamp(min=torch.finfo(base.dtype).tiny).pow(exponent)
