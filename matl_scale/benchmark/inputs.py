"""The tasks, the network and the images that several suites measure with."""

import io
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from matl_scale.models.config import ModelConfig
from matl_scale.models.network import RoutedModel, build_model
from matl_scale.models.routing_config import RoutingConfig
from matl_scale.routes import Routes
from matl_scale.routing.grouping import group_in_order
from matl_scale.tasks import Task
from matl_scale.train.step.optim import OptimConfig

CELEBA_SIZE = (178, 218)  # width and height in pixels
OPTIMIZER = OptimConfig(lr=1e-3, head_lr_scale=1.0)


def binary_tasks(count: int) -> list[Task]:
    return [Task(name=f"task_{i}", classes=("no", "yes")) for i in range(count)]


def build_resnet(num_tasks: int, size: int, num_routes: int | None = None, start: str = "") -> RoutedModel:
    """Returns a routed ResNet-18 for binary tasks, σ = 0.5: each on a route of its own, or in order on so many routes; layers
    before `start` are not routed."""
    return build_binary(full_width("resnet18"), RoutingConfig(sigma=0.5, start=start), num_tasks, size, num_routes)


def full_width(name: str) -> ModelConfig:
    """Returns the config of one of torchvision's backbones as it is."""
    return ModelConfig(name=name, width=1.0, stem="standard")


def build_binary(
    model: ModelConfig, routing: RoutingConfig, num_tasks: int, size: int, num_routes: int | None = None
) -> RoutedModel:
    """Returns a routed network for binary tasks: each on a route of its own, or in order on so many routes."""
    routes = None
    if num_routes is not None:
        groups = group_in_order(num_tasks, num_routes).tolist()
        routes = Routes.build([f"route_{i}" for i in range(num_routes)], groups)
    return build_model(model, routing, [2] * num_tasks, 0, size, routes)


class SmoothJpegs:
    """JPEGs of small random pixels, shape `(num_images, height, width, 3)`, that are scaled up to a width and height."""

    root = "memory"

    def __init__(self, coarse: np.ndarray, size: tuple[int, int]) -> None:
        self.coarse, self.size = coarse, size

    def read(self, names: Sequence[str], indices: np.ndarray) -> Iterator[bytes]:  # noqa: ARG002
        return (encode_jpeg(coarse, self.size) for coarse in self.coarse[indices])


def encode_jpeg(coarse: np.ndarray, size: tuple[int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
