"""Multiply-adds of routes with their heads, forward and in training, beside torch's profiler on the dense network."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from matl_scale.benchmark.cost import CONV_BACKWARD, backward_flops, profile
from matl_scale.deploy.export.dense import dense_network
from matl_scale.errors import InputError
from matl_scale.models.config import ModelConfig
from matl_scale.models.cost import count_all_tasks, count_forward, count_training, layer_costs
from matl_scale.models.network import RoutedModel, build_model
from matl_scale.models.routing_config import RoutingConfig
from matl_scale.routes import Routes

SIZE, CLASSES = 64, [2, 5, 3, 2]
ROUTED = RoutingConfig(sigma=0.5)
ROUTES = Routes.build(["first", "second"], [0, 1, 0, 0])
BACKBONES = ["resnet18", "mobilenet_v3_small", "regnet_y_400mf"]


def config_of(name: str) -> ModelConfig:
    return ModelConfig(name=name, width=1.0, stem="standard")


def build(name: str, routing: RoutingConfig = ROUTED) -> RoutedModel:
    return build_model(config_of(name), routing, CLASSES, 0, SIZE, ROUTES)


@pytest.mark.parametrize("name", BACKBONES)
def test_counts_are_those_of_a_profiler_on_the_dense_network(name: str) -> None:
    model = build(name)
    for route_id in (0, 1):
        assert count_forward(model, route_id) == profile(model, route_id, SIZE, "forward")
        assert count_training(model, route_id) == profile(model, route_id, SIZE, "training")
    assert count_forward(model, 0) != count_forward(model, 1), "heads of other sizes"


def test_with_a_frozen_trunk_the_backward_pass_ends_at_the_heads() -> None:
    model = build("resnet18")
    network = dense_network(model, list(ROUTES.tasks_of[0])).requires_grad_(False)
    network.get_submodule("head").requires_grad_(True)
    with FlopCounterMode(display=False) as counter:
        torch.cat(network(torch.zeros(1, 3, SIZE, SIZE)), dim=1).sum().backward()
    assert count_training(model, 0, frozen=["*"]) == counter.get_total_flops() // 2
    assert count_training(model, 0, frozen=["*"]) < 0.4 * count_training(model, 0)


def test_a_frozen_beginning_needs_no_gradients() -> None:
    model = build("resnet18")
    network = dense_network(model, list(ROUTES.tasks_of[0]))
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(not name.startswith(("conv1", "layer1", "layer3")))
    with FlopCounterMode(display=False) as counter:
        torch.cat(network(torch.zeros(1, 3, SIZE, SIZE)), dim=1).sum().backward()
    assert count_training(model, 0, frozen=["conv1", "bn1", "layer1", "layer3"]) == counter.get_total_flops() // 2


def test_for_all_tasks_unrouted_layers_run_once() -> None:
    model = build("resnet18", RoutingConfig(sigma=0.5, start="layer3"))
    both = count_forward(model, 0) + count_forward(model, 1)
    once = sum(cost.active for cost in layer_costs(model, 0) if cost.layer.startswith(("conv1", "layer1", "layer2")))
    # the first convs behind layer2 read the same values for both routes, and run once with all their units
    first = [cost for cost in layer_costs(model, 0) if cost.layer in ("layer3.0.conv1", "layer3.0.downsample.0")]
    assert all(cost.is_common and cost.whole == 2 * cost.active for cost in first)
    assert count_all_tasks(model) == both - once


def test_a_row_for_each_layer_and_head() -> None:
    model = build("resnet18")
    names = [cost.layer for cost in layer_costs(model, 0)]
    assert names[:2] == ["conv1", "layer1.0.conv1"]
    assert names[-1] == "heads.0"
    assert len(names) == len(set(names)) == 21
    head = layer_costs(model, 0)[-1]
    assert (head.whole, head.active) == (512 * 7, 256 * 7)


@pytest.mark.parametrize("name", [*BACKBONES, "convnext_tiny"])
def test_an_outline_counts_the_same_without_weights(name: str) -> None:
    outline = build_model(config_of(name), ROUTED, CLASSES, 0, SIZE, ROUTES, outline=True)
    assert layer_costs(outline, 1) == layer_costs(build(name), 1)
    matrices = [parameter for parameter in outline.trunk.parameters() if parameter.ndim == 4]
    assert all(parameter.is_meta for parameter in matrices)


def test_a_network_for_images_of_unknown_size_is_not_counted() -> None:
    model = build("resnet18")
    with pytest.raises(InputError, match="should know the size of its images"):
        count_forward(RoutedModel(model.trunk, CLASSES, 512, ROUTES), 0)


def test_the_gradient_of_a_grouped_weight_costs_as_much_as_the_forward_pass() -> None:
    conv = torch.nn.Conv2d(8, 8, 3, groups=4, bias=False)
    with FlopCounterMode(display=False, custom_mapping={CONV_BACKWARD: backward_flops}) as counter:
        conv(torch.zeros(1, 8, 6, 6)).sum().backward()
    assert counter.get_total_flops() == 2 * 2 * (8 * 2 * 9 * 16)
