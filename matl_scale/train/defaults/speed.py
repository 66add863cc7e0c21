"""How long the CPUs of a rank take to train an image, measured by training a few: processors differ tenfold."""

import time
from functools import cache

import torch

from matl_scale.models.backbone_size import measure_backbone
from matl_scale.models.backbones import build_backbone_outline
from matl_scale.models.config import ModelConfig

ROUNDS = 3  # the first of them is not counted: it reserves memory
MAX_IMAGES = 16  # of a round
ROUND_COST = 2e9  # multiply-adds of the forward pass of a round, so that it takes less than a second


@cache
def measure_image_s(model: ModelConfig, image_size: int) -> float:
    """Returns the seconds that a forward and a backward pass of a backbone take per image, with the threads of this process.

    Args:
        model: Its name, width and stem have been chosen.
        image_size: Side length in pixels.

    Raises:
        InputError: As `build_backbone` does.
    """
    cost = measure_backbone(model, image_size).multiply_adds
    num_images = min(max(round(ROUND_COST / max(cost, 1)), 2), MAX_IMAGES)
    backbone = build_backbone_outline(model, seed=0).to_empty(device="cpu").train()
    for value in (*backbone.parameters(), *backbone.buffers()):
        torch.nn.init.constant_(value, 0.01)
    images = torch.ones(num_images, *(model.input_shape or (3, image_size, image_size)))
    taken = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        backbone(images).sum().backward()
        taken.append(time.perf_counter() - start)
    return min(taken[1:]) / num_images
