"""Two operators that torchvision expects, declared where its own library cannot load: beside a CPU build of torch.

The registry's torchvision for Linux is built against CUDA. Beside a CPU build of torch its C++ operators cannot load, and
`import torchvision` fails while it registers fake kernels for two of them. Declaring those two schemas first is enough for
models, transforms and data sets; the operators themselves stay unavailable.

torch calls this at the end of its own import (entry point `torch.backends`), because not every import of torchvision is ours:
timm has one, and `accelerate launch` imports timm, where it is installed, before it starts a script.
"""

import importlib.util
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import torch

_LIBRARIES: list[torch.library.Library] = []  # a Library that is garbage-collected takes its schemas with it


def declare_missing_operators() -> None:
    """Declares `nms` and `qnms` of torchvision if torch is a CPU build for Linux and torchvision's library cannot load."""
    if _LIBRARIES or sys.platform != "linux" or torch.version.cuda is not None or torch.version.hip is not None:
        return
    try:
        spec = importlib.util.find_spec("torchvision")
    except (
        ImportError,
        ValueError,
    ):  # where something else has a say in what may be imported; torch has to come up all the same
        return
    if spec is None or spec.origin is None or _loads(Path(spec.origin).parent):
        return
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _LIBRARIES.append(library)


def _loads(folder: Path) -> bool:
    path = next((path for suffix in EXTENSION_SUFFIXES if (path := folder / f"_C{suffix}").is_file()), None)
    if path is None:
        return False
    try:
        torch.ops.load_library(path)
    except OSError:
        return False
    return True
