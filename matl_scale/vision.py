"""torchvision, also beside a CPU-only torch. Import torchvision through this module, never directly.

The registry's torchvision is built against CUDA; beside a CPU build of torch its C++ operators cannot load, and
`import torchvision` fails while it registers fake kernels for two of them. Declaring those two schemas first is enough
for models, transforms and data sets; the operators themselves stay unavailable. Nothing is declared where they load.
"""

import warnings

import torch


def _declare_missing_operators() -> None:
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _LIBRARIES.append(library)


_LIBRARIES: list[torch.library.Library] = []  # a Library that is garbage-collected takes its schemas with it

with warnings.catch_warnings():
    # torchvision.io warns that its image codecs are missing; this project decodes images with Pillow
    warnings.filterwarnings("ignore", message="Failed to load image Python extension")
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::nms does not exist" not in str(error):
            raise
        _declare_missing_operators()
        import torchvision

from torchvision import models  # noqa: E402
from torchvision.models.convnext import LayerNorm2d  # noqa: E402
from torchvision.ops import StochasticDepth  # noqa: E402
from torchvision.transforms import v2 as transforms  # noqa: E402

__all__ = ["LayerNorm2d", "StochasticDepth", "models", "torchvision", "transforms"]
