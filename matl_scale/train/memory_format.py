"""Where a run can have the memory format channels_last."""

from torch import nn

from matl_scale.automatic import chosen
from matl_scale.errors import InputError
from matl_scale.models.backbones import build_backbone_outline
from matl_scale.train.config import Config

SAFE_INPUTS = 16  # channels that a CPU's convs work on at once


def check_memory_format(config: Config, has_gpu: bool) -> None:
    """Raises `InputError` if channels_last would crash the process, or worse: on CPUs, the backward pass of a 1×1 conv with a
    stride writes past its buffer where it has few input channels (https://github.com/uxlfoundation/oneDNN/issues/6035)."""
    if not config.train.channels_last or has_gpu or config.model.is_features:
        return
    sigma = min(chosen(config.routing.sigma), *config.routing.sigmas.values(), 1.0)
    for name, layer in build_backbone_outline(config.model, config.run.seed).named_modules():
        if not isinstance(layer, nn.Conv2d) or layer.kernel_size != (1, 1) or max(layer.stride) == 1:
            continue
        inputs = layer.in_channels / layer.groups * sigma
        if inputs < SAFE_INPUTS:
            raise InputError(
                "`train.channels_last` should be false on a CPU with this network: torch's convs may crash with it, or give "
                f"wrong gradients, where a 1×1 conv with a stride has fewer than {SAFE_INPUTS} input channels; `{name}` has "
                f"{inputs:g}."
            )
