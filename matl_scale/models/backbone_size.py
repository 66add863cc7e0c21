"""What a backbone costs per image, before it is built: counted on the meta device, where nothing is computed."""

from dataclasses import dataclass
from functools import cache

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from matl_scale.models.backbones import build_backbone_outline, count_features
from matl_scale.models.config import ModelConfig

BYTES = 4  # of a float32 number
# a conv's output is kept for the norm's backward pass, and the norm's for that of the next conv; in a transformer, the output of
# a linear layer, and what attention or a gate makes of it
KEPT_PER_LAYER = 2


@dataclass(frozen=True, kw_only=True)
class BackboneSize:
    """What one image costs."""

    multiply_adds: int  # of a forward pass
    activation_bytes: int  # what a forward pass in float32 keeps for the backward pass, about


@cache
def measure_backbone(model: ModelConfig, image_size: int) -> BackboneSize:
    """Measures a backbone whose name, width and stem have been chosen.

    Raises:
        InputError: As `build_backbone` and `count_features` do.
    """
    outline = build_backbone_outline(model, seed=0).to("meta", torch.float32).eval()
    count_features(outline, model, image_size)  # says what is wrong if the images are too small
    kept = 0

    def add(_: nn.Module, __: object, output: torch.Tensor) -> None:
        nonlocal kept
        kept += output.numel() * BYTES * KEPT_PER_LAYER

    for module in outline.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(add)
    with FlopCounterMode(display=False) as counter:
        shape = model.input_shape or (3, image_size, image_size)
        outline(torch.empty(1, *shape, device="meta", dtype=torch.float32))
    return BackboneSize(multiply_adds=counter.get_total_flops() // 2, activation_bytes=kept)
