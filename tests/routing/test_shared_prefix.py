"""Evaluation of many routes on the same images: what they have in common is computed once, and nothing else changes."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from helpers.network_outputs import gap, images_of
from helpers.torchvision_models import backbone_of
from matl_scale import route
from matl_scale.models.config import ModelConfig
from matl_scale.models.network import build_model
from matl_scale.models.predictor import Predictor
from matl_scale.models.routing_config import RoutingConfig
from matl_scale.routing.all_routes import AllRoutes

MODEL = ModelConfig(name="resnet18", width=0.25, stem="standard")


@pytest.mark.parametrize("task_chunk", [64, 5, 1])
def test_prediction_of_all_routes_equals_masked_execution_whatever_is_held(task_chunk: int) -> None:
    model = build_model(MODEL, RoutingConfig(sigma=0.5), [2] * 12, 0, 32).double()
    for head in model.heads:
        nn.init.normal_(head.weight)
    for route_id in range(12):
        model(images_of(), route_id)  # statistics of their own
    model.eval()
    chosen = {2: None, 5: torch.tensor([0, 2]), 11: torch.tensor([1])}
    predictor = Predictor(model, "subnetwork", task_chunk)
    masked = Predictor(model, "masked", task_chunk)
    for _ in range(2):
        predictor.start()
        wanted = dict(masked.logits(images_of(), chosen))
        for route_id, (part,) in predictor.logits(images_of(), chosen):
            assert gap(part.logits, wanted[route_id][0].logits) < 1e-10
        with torch.no_grad():
            model.trunk.get_parameter("conv1.weight").mul_(0.5)  # as a step between two evaluations would


class FirstConvs(TorchDispatchMode):
    """Counts convs of images."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten.convolution.default and args[0].shape[1] == 3
        return func(*args, **(kwargs or {}))


def test_what_tasks_have_in_common_is_computed_once() -> None:
    trunk = route(backbone_of("resnet18", 0.25), 4, 0.5).double().eval()
    all_routes = AllRoutes(trunk)
    with torch.no_grad(), FirstConvs() as first_convs:
        prepared = all_routes.prepare(images_of())
        for route_id in torch.arange(4)[:, None]:
            all_routes(prepared, route_id, all_routes.gather(route_id))
    assert first_convs.count == 1
    shared = AllRoutes(route(backbone_of("resnet18", 0.25), 4, 1.0, statistics="shared").double().eval())
    (features,) = shared.prepare(images_of())
    assert features.shape == (4, 128), "without routing and route statistics, all of the trunk is common"


class ReadThenChanged(nn.Module):
    """A routed layer reads what is the same for all routes, and then a layer that is not routed changes it in place."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.plain, self.back = nn.Conv2d(3, 8, 3, 4), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.routed, self.relu, self.pool = nn.Conv2d(8, 8, 1), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.stem(images)
        y = self.back(self.routed(x))
        return torch.flatten(self.pool(self.plain(self.relu(x)) + y), 1)


def test_what_is_read_before_it_is_changed_in_place_keeps_its_value() -> None:
    trunk = route(ReadThenChanged().double(), 3, 0.5, layers=["routed"]).eval()
    all_routes = AllRoutes(trunk)
    with torch.no_grad():
        prepared = all_routes.prepare(images_of())
        for index in torch.arange(3)[:, None]:
            actual = all_routes(prepared, index, all_routes.gather(index))
            assert gap(actual, trunk(images_of(), index)) < 1e-10
