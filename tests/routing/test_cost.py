"""What a route's sub-network costs is what it multiplies when it runs."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from helpers.torchvision_models import backbone_of, small_convnext
from matl_scale.routing.all_routes import AllRoutes
from matl_scale.routing.cost import count_layers, pass_cost
from matl_scale.routing.subnetwork import Subnetwork
from matl_scale.routing.surgery import route

SIZE = 72


def profile(module: nn.Module, *arguments: Any) -> int:
    """Returns the multiply-adds that torch's profiler finds while a module runs."""
    with FlopCounterMode(display=False) as counter:
        module(*arguments)
    return counter.get_total_flops() // 2


def image(size: int = SIZE) -> torch.Tensor:
    return torch.zeros(1, 3, size, size, dtype=torch.float64)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet18", {}),
        ("resnet18", {"start": "layer4"}),
        ("resnet18", {"layers": ["layer1", "layer2"]}),
        ("resnet18", {"strategy": "partition"}),
        ("resnet18", {"sigmas": {"layer3": 0.25}}),
        ("mobilenet_v3_small", {}),
        ("convnext", {}),
    ],
)
def test_counts_are_those_of_a_profiler(name: str, options: dict[str, Any]) -> None:
    backbone = small_convnext() if name == "convnext" else backbone_of(name)
    trunk, index = route(backbone, 4, 0.5, **options), torch.tensor([1])
    layers = count_layers(trunk, SIZE).layers
    whole, active = profile(trunk.eval(), image(), index), profile(Subnetwork(trunk), image(), index)
    assert sum(layer.whole for layer in layers) == whole
    assert sum(layer.active for layer in layers) == active
    assert pass_cost(trunk, SIZE) == active / whole


def test_a_layer_by_hand() -> None:
    backbone = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 12, (3, 1), groups=2, dilation=2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip
    costs = count_layers(route(backbone, 2, 0.5), 17)
    first, second = costs.layers
    assert (first.layer, first.whole, first.active) == ("0", 8 * 27 * 64, 4 * 27 * 64)
    assert (second.layer, second.whole, second.active) == ("2", 12 * 4 * 3 * 4 * 8, 6 * 4 * 3 * 4 * 8)
    assert (costs.num_features, costs.num_active_features) == (12, 6)
    # nothing before the first layer needs a gradient
    assert (first.training(), second.training()) == (2 * first.active, 3 * second.active)
    assert (first.is_common, second.is_common) == (True, False)


def test_what_all_routes_have_in_common_runs_once() -> None:
    trunk = route(backbone_of("resnet18", 0.25), 3, 0.5, start="layer3").eval()
    network = AllRoutes(trunk)
    prepared = network.prepare(image())
    layers = count_layers(trunk, SIZE).layers
    assert profile(network.prepare, image()) == sum(layer.whole for layer in layers if layer.is_common) > 0
    route_id = torch.tensor([2])
    expected = sum(layer.active for layer in layers if not layer.is_common)
    assert profile(network, prepared, route_id, network.gather(route_id)) == expected


def test_a_count_belongs_to_a_size_of_images() -> None:
    trunk = route(backbone_of("resnet18", 0.25), 2, 0.5)
    small, large = (sum(layer.active for layer in count_layers(trunk, size).layers) for size in (32, 64))
    assert large == 4 * small
    assert sum(layer.active for layer in count_layers(trunk, 32).layers) == small
