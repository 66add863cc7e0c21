"""Suite `eval`, prediction: all tasks of photos beside a plain network that has an output for each of them.

ResNet-50, 224 px; 312 tasks, as CUB has, on 16 routes with σ = 0.5; nothing before the last stage is routed. Both networks decode
every photo.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from matl_scale.benchmark.figure import Conditions, Figure, Workload, timed
from matl_scale.benchmark.inputs import build_binary, encode_jpeg, full_width
from matl_scale.data.images.decode import decode_image
from matl_scale.models.backbones import build_backbone, count_features
from matl_scale.models.network import normalise
from matl_scale.models.predictor import Predictor
from matl_scale.models.routing_config import RoutingConfig

NUM_TASKS, NUM_ROUTES = 312, 16
SIZE, BATCH = 224, 16
PHOTO_SIZE = (500, 375)  # width and height in pixels


def against_plain(conditions: Conditions) -> tuple[Workload, Workload]:
    config = full_width("resnet50")
    routed = build_binary(config, RoutingConfig(sigma=0.5, start="layer4"), NUM_TASKS, SIZE, NUM_ROUTES)
    predictor = Predictor(routed.to(conditions.device).eval(), "subnetwork", NUM_ROUTES)
    predictor.start()
    backbone = build_backbone(config, 0)
    plain = (
        nn.Sequential(backbone, nn.Linear(count_features(backbone, config, SIZE), 2 * NUM_TASKS))
        .to(conditions.device)
        .eval()
    )
    coarse = np.random.default_rng(0).integers(0, 256, (BATCH, 24, 32, 3), dtype=np.uint8)
    photos = [encode_jpeg(each, PHOTO_SIZE) for each in coarse]

    def predict(network: Callable[[torch.Tensor], object]) -> object:
        decoded = torch.from_numpy(np.stack([decode_image(photo, SIZE) for photo in photos])).permute(0, 3, 1, 2)
        return network(normalise(decoded.to(conditions.device).contiguous()))

    without_gradients = torch.inference_mode()
    return (
        without_gradients(lambda: predict(plain)),
        without_gradients(lambda: predict(lambda images: predictor.logits_of_tasks(images, range(NUM_TASKS)))),
    )


def figures(conditions: Conditions) -> list[Figure]:  # noqa: ARG001
    meaning = "plain ResNet-50 with an output per task ÷ ours, 312 tasks on 16 routes, JPEGs decoded, ≥ 0.6"
    return [Figure("predict_t312_vs_plain", meaning, timed(against_plain))]
