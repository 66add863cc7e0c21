"""Vision transformers of a few thousand weights, in float64 and without randomness, each with the size of its images."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from helpers.timm_models import scatter
from helpers.torchvision_models import without_randomness
from matl_scale.models.backbones import build_backbone
from matl_scale.models.config import ModelConfig
from matl_scale.models.from_timm.library import load_timm
from matl_scale.vision import models

TINY = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 4}  # of timm's
# class token; registers, pooling and norms of queries and keys; attention as pooling; norms within branches
TIMM: dict[str, tuple[str, dict[str, Any]]] = {
    "token": ("vit_tiny_patch16_224", {}),
    "registers": (
        "vit_tiny_patch16_224",
        {"reg_tokens": 2, "global_pool": "avg", "qk_norm": True, "init_values": 0.1, "no_embed_class": True},
    ),
    "pooled": ("vit_base_patch16_siglip_224", {}),
    "norms": ("vit_tiny_patch16_224", {"scale_attn_norm": True, "scale_mlp_norm": True}),
}


def tiny_vit(num_layers: int = 2) -> nn.Module:
    net = models.VisionTransformer(
        image_size=16, patch_size=4, num_layers=num_layers, num_heads=4, hidden_dim=16, mlp_dim=24
    )
    net.heads = nn.Identity()
    return scatter(net).double()


def tiny_swin(version: int = 1) -> nn.Module:
    """With windows of 3 × 3 pixels that are shifted in every second block, on maps that they do not divide."""
    options: dict[str, Any] = {}
    if version == 2:
        parts = models.swin_transformer
        options = {"block": parts.SwinTransformerBlockV2, "downsample_layer": parts.PatchMergingV2}
    net = models.SwinTransformer([2, 2], 8, [2, 2], [2, 4], [3, 3], **options)
    net.head = nn.Identity()
    return without_randomness(scatter(net)).double()


def tiny_timm(kind: str, **args: Any) -> nn.Module:
    """Returns timm's own model without its classifier."""
    name, others = TIMM[kind]
    return scatter(load_timm("This test").create_model(name, num_classes=0, **TINY, **others, **args)).double()


def tiny_timm_config(kind: str = "token", **settings: Any) -> ModelConfig:
    name, others = TIMM[kind]
    return ModelConfig(name=f"timm/{name}", args=TINY | others, width=1.0, stem="standard", **settings)


def tiny_timm_backbone(kind: str) -> nn.Module:
    return scatter(build_backbone(tiny_timm_config(kind), seed=0)).double()


TRANSFORMERS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "vit": (tiny_vit, 16),
    "swin": (tiny_swin, 22),
    "swin v2": (lambda: tiny_swin(version=2), 22),
    **{f"timm, {kind}": (lambda kind=kind: tiny_timm_backbone(kind), 16) for kind in TIMM},  # type: ignore[misc]
}


def inactive_columns(mask: torch.Tensor) -> torch.Tensor:
    """Returns the indices that a mask of shape `(num_channels,)` switches off."""
    return torch.nonzero(~mask).flatten()
