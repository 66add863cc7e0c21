"""The tasks, the network and the images that several suites measure with."""

import io
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from matl_scale.models.backbones import ModelConfig
from matl_scale.models.network import RoutedModel, build_model
from matl_scale.models.routing_config import RoutingConfig
from matl_scale.tasks import Task

CELEBA_SIZE = (178, 218)  # width and height in pixels


def binary_tasks(count: int) -> list[Task]:
    return [Task(name=f"task_{i}", classes=("no", "yes")) for i in range(count)]


def build_resnet(num_tasks: int, size: int) -> RoutedModel:
    """Returns a routed ResNet-18 for binary tasks, σ = 0.5."""
    return build_model(ModelConfig(name="resnet18"), RoutingConfig(), [2] * num_tasks, 0, size)


class SmoothJpegs:
    """JPEGs of small random pixels, shape `(num_images, height, width, 3)`, that are scaled up to the size of CelebA's."""

    root = "memory"

    def __init__(self, coarse: np.ndarray) -> None:
        self.coarse = coarse

    def read(self, names: Sequence[str], indices: np.ndarray) -> Iterator[bytes]:  # noqa: ARG002
        return map(encode_jpeg, self.coarse[indices])


def encode_jpeg(coarse: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize(CELEBA_SIZE, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
