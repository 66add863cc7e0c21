"""Batch normalisation in training by the statistics of the batches of all ranks together.

torch has it for GPUs alone (`nn.SyncBatchNorm`). Here all ranks exchange count, mean and variance of their batch in the
forward pass, and two sums over it in the backward pass, so that the result is that of one process on all images.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch.nn import functional

IMAGE_DIMS = (0, 2, 3)  # of a mean per channel


@torch.compiler.disable  # type: ignore[untyped-decorator]
def normalise_over_ranks(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Does what `normalise_batch` does with the batches of all ranks as one. All ranks have to call it, and to make the
    backward pass, in which the gradients of each one's loss reach the images of all."""
    mean, biased, count = measure_ranks(x.detach().to(weight.dtype))
    y: torch.Tensor = RankNorm.apply(x, weight, bias, mean, biased, count, eps)
    return y, torch.stack([mean, biased * count / (count - 1)])


def measure_ranks(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns mean and biased variance of the channels over the batches of all ranks, and the number of values of a channel."""
    variance, mean = torch.var_mean(x, dim=IMAGE_DIMS, correction=0)
    parts = x.new_zeros(dist.get_world_size(), 2 * len(mean) + 1)
    parts[dist.get_rank()] = torch.cat([mean, variance, mean.new_full((1,), x.numel() / x.shape[1])])
    dist.all_reduce(parts)
    means, variances, counts = parts.split([len(mean), len(mean), 1], dim=1)
    count = counts.sum()
    shares = counts / count
    mean = (shares * means).sum(dim=0)
    return mean, (shares * (variances + (means - mean).square())).sum(dim=0), count


class RankNorm(torch.autograd.Function):
    """Normalises by mean and variance of all ranks' batches, with the gradient through both."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        mean: torch.Tensor,
        variance: torch.Tensor,
        count: torch.Tensor,
        eps: float,
    ) -> torch.Tensor:
        ctx.save_for_backward(x, weight, mean, (variance + eps).rsqrt(), count)
        return functional.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Ioffe, Szegedy, Batch Normalization, ICML 2015, arXiv 1502.03167, section 3, with sums over all ranks' images."""
        x, weight, mean, scale, count = ctx.saved_tensors
        gradient = gradients[0].to(weight.dtype)
        normalised = (x.to(weight.dtype) - mean[:, None, None]) * scale[:, None, None]
        own = torch.stack([gradient.sum(dim=IMAGE_DIMS), (gradient * normalised).sum(dim=IMAGE_DIMS)])
        of_all = own.clone()
        dist.all_reduce(of_all)
        shift, slope = (of_all / count)[:, :, None, None]
        of_x = (gradient - shift - normalised * slope) * (weight * scale)[:, None, None]
        return of_x.to(x.dtype), own[1], own[0], None, None, None, None
