"""MixUp and CutMix: the images of a batch are mixed in pairs, and each pair counts as both of its images, in shares.

With share λ of an image's own and j the image before it in the batch, the loss of a route becomes
λ · L(labels of i) + (1 − λ) · L(labels of j), where L is the route's loss of the mixed images (see `train/step/loss.py`). In each
of the two terms a missing label is left out as always, and both are divided by the same numbers as without mixing. λ is drawn
once per batch, so that every label weighs as much as without mixing: λ in its own place and 1 − λ in its partner's, whichever
other labels the two have.

Zhang et al., *mixup*, ICLR 2018, arXiv 1710.09412; Yun et al., *CutMix*, ICCV 2019, arXiv 1905.04899.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from matl_scale.errors import InputError, shortened

SMALLEST_BATCH = 2


@dataclass(frozen=True, kw_only=True)
class Mixing:
    """Mixes batches. The strengths α are those of the distribution Beta(α, α) of λ; 0 leaves one of the two out. Where both are
    given, each batch is mixed by one of them, with equal chances."""

    mixup: float
    cutmix: float

    def __call__(self, images: torch.Tensor, count: int, seed: int) -> tuple[torch.Tensor, float]:
        """Mixes each of the first `count` images with the one before it, the first with the last.

        Args:
            images: Floats, shape `(batch, 3, height, width)`; those after the first `count` have no label and stay.
            count: How many are mixed. Where damage or a stream leaves less than two of a batch, nothing is.
            seed: Fixes what is drawn.

        Returns:
            The images, and the share λ of an image's own label.
        """
        if count < SMALLEST_BATCH:
            return images, 1.0
        generator = np.random.default_rng(seed)
        use_mixup = self.mixup > 0 and (self.cutmix == 0 or generator.random() < 1 / 2)
        alpha = self.mixup if use_mixup else self.cutmix
        share = float(generator.beta(alpha, alpha))
        own, others = images[:count], partners_of(images[:count])
        if use_mixup:
            mixed = torch.lerp(others, own, share)
        else:
            height, width = images.shape[2:]
            rows, columns = draw_rectangle(share, height, width, generator)
            mixed = own.clone()
            mixed[..., rows, columns] = others[..., rows, columns]
            share = 1 - (rows.stop - rows.start) * (columns.stop - columns.start) / (height * width)
        return torch.cat([mixed, images[count:]]), share


def partners_of(values: torch.Tensor) -> torch.Tensor:
    """Returns the images, or the labels, with which those of a batch are mixed."""
    return values.roll(1, 0)


def draw_rectangle(share: float, height: int, width: int, generator: np.random.Generator) -> tuple[slice, slice]:
    """Draws the rows and columns that CutMix takes from the other image: a share of 1 − λ, about a point that is drawn, as far as
    it lies in the image."""
    half = np.sqrt(1 - share) / 2
    row, column = generator.integers(height), generator.integers(width)
    return (
        slice(max(0, int(row - half * height)), min(height, int(row + half * height))),
        slice(max(0, int(column - half * width)), min(width, int(column + half * width))),
    )


def build_mixing(mixup: float, cutmix: float, counts: np.ndarray, routes: Sequence[str]) -> Mixing | None:
    """Builds the mixing of `data.mixup` and `data.cutmix`; None if both are 0.

    Args:
        mixup: `data.mixup`.
        cutmix: `data.cutmix`.
        counts: How many samples each route has, shape `(num_routes,)`.
        routes: The names of the routes.

    Raises:
        InputError: A route has a single sample, which has no partner.
    """
    if not (mixup or cutmix):
        return None
    if len(alone := np.flatnonzero(counts == 1)):
        key = "data.mixup" if mixup else "data.cutmix"
        raise InputError(
            f"`{key}` should be 0, or every route should have two labelled training images or more: a batch of a single one "
            f"cannot be mixed. {len(alone)} routes have one: {shortened(routes[i] for i in alone.tolist())}. Leave their tasks "
            "out with `data.tasks`, or let them share a route (`routing.routes`)."
        )
    return Mixing(mixup=mixup, cutmix=cutmix)
