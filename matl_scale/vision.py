"""torchvision, also beside a CPU-only torch. Import torchvision through this module, never directly."""

import warnings

from matl_scale.torchvision_operators import declare_missing_operators

declare_missing_operators()  # torch has done so, unless TORCH_DEVICE_BACKEND_AUTOLOAD=0 or this package is not installed

with warnings.catch_warnings():
    # torchvision.io warns that its image codecs are missing; this project decodes images with Pillow
    warnings.filterwarnings("ignore", message="Failed to load image Python extension")
    import torchvision

from torchvision import models  # noqa: E402
from torchvision.models.convnext import LayerNorm2d  # noqa: E402
from torchvision.models.swin_transformer import (  # noqa: E402
    PatchMerging,
    PatchMergingV2,
    ShiftedWindowAttention,
    ShiftedWindowAttentionV2,
)
from torchvision.ops import StochasticDepth  # noqa: E402
from torchvision.transforms import v2 as transforms  # noqa: E402

__all__ = [
    "LayerNorm2d", "PatchMerging", "PatchMergingV2", "ShiftedWindowAttention", "ShiftedWindowAttentionV2", "StochasticDepth",
    "models", "torchvision", "transforms",
]  # fmt: skip
