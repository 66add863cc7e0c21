"""timm's models in float64: as timm builds them, and as backbones of ours."""

import torch
from torch import nn

from matl_scale.models.backbones import build_backbone
from matl_scale.models.config import ModelConfig
from matl_scale.models.from_timm.library import load_timm


def timm_model(name: str) -> nn.Module:
    """Returns timm's own model without its classifier."""
    return scatter(load_timm("This test").create_model(name, num_classes=0, drop_rate=0.0)).double()


def timm_backbone(name: str, width: float = 1.0, stem: str = "standard") -> nn.Module:
    return scatter(build_backbone(ModelConfig(name=f"timm/{name}", width=width, stem=stem), seed=0)).double()


def scatter(model: nn.Module) -> nn.Module:
    """Gives norms and scales values that training would give them; timm starts many of them at 0 or 1."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.copy_(torch.rand(parameter.shape, generator=generator) - 0.3 * name.endswith("weight"))
    return model
