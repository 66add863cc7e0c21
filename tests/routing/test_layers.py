"""Which layers are routed: the others keep all units for all routes, share their statistics, and run once for all routes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import fx, nn

from helpers.network_outputs import gap, images_of
from helpers.torchvision_models import backbone_of
from matl_scale import InputError, Subnetwork, route
from matl_scale.models.config import ModelConfig
from matl_scale.models.pass_cost import measure_pass
from matl_scale.models.routing_config import RoutingConfig
from matl_scale.routing.all_routes import AllRoutes
from matl_scale.routing.batch_norm import RouteBatchNorm2d
from matl_scale.routing.layers import choose_sigmas, matches
from matl_scale.routing.masks import MaskSpec
from matl_scale.routing.units import Stream


def routed_convs(trunk: fx.GraphModule) -> list[str]:
    return [name.removeprefix("routers.") for name in dict(trunk.named_modules()) if name.startswith("routers.")]


def trained(trunk: fx.GraphModule) -> fx.GraphModule:
    """Gives every route statistics of its own, and returns the trunk in evaluation mode."""
    for number in range(3):
        trunk(images_of() * (number + 1), torch.tensor([number]))
    return trunk.eval()


def test_a_pattern_names_a_module_or_one_around_it() -> None:
    assert matches("layer3.0.conv1", "layer3")
    assert matches("layer3.0.conv1", "layer3.*.conv1")
    assert matches("layer3.0.conv1", "layer[34]")
    assert not matches("layer3.0.conv1", "layer")
    assert not matches("layer3.0.conv1", "conv1")


@pytest.mark.parametrize("name", ["resnet18", "vgg11_bn", "densenet121", "mobilenet_v3_small"])
def test_sub_networks_equal_masked_execution_when_only_late_layers_are_routed(name: str) -> None:
    start = {"vgg11_bn": "features.15", "densenet121": "features.denseblock3", "mobilenet_v3_small": "features.7"}
    trunk = trained(route(backbone_of(name), 3, 0.5, start=start.get(name, "layer3")))
    subnetwork, all_routes = Subnetwork(trunk), AllRoutes(trunk)
    with torch.no_grad():
        prepared = all_routes.prepare(images_of())
        for number in range(3):
            index = torch.tensor([number])
            wanted = trunk(images_of(), index)
            assert gap(subnetwork(images_of(), index), wanted) < 1e-10
            assert gap(all_routes(prepared, index, all_routes.gather(index)), wanted) < 1e-10


def test_training_through_unrouted_layers_gives_the_same_gradients_and_statistics() -> None:
    masked, sliced = (route(backbone_of("resnet18", 0.25), 3, 0.5, start="layer3") for _ in range(2))
    subnetwork = Subnetwork(sliced)
    for number in (2, 0, 2):
        index = torch.tensor([number])
        masked(images_of(), index).square().sum().backward()
        subnetwork(images_of(), index).square().sum().backward()
    for (name, one), other in zip(masked.named_parameters(), sliced.parameters(), strict=True):
        assert gap(other.grad, one.grad) < 1e-9, name
    for (name, one), other in zip(masked.state_dict().items(), sliced.state_dict().values(), strict=True):
        assert gap(other.double(), one.double()) < 1e-10, name


def test_layers_before_the_start_are_shared_whole_and_computed_once() -> None:
    trunk = route(backbone_of("resnet18", 0.25), 3, 0.5, start="layer3")
    assert all(name.startswith(("layer3", "layer4")) for name in routed_convs(trunk))
    norms = {name: module for name, module in trunk.named_modules() if isinstance(module, RouteBatchNorm2d)}
    for name, norm in norms.items():
        late = name.startswith(("layer3", "layer4"))
        assert (norm.statistics, len(norm.running)) == (("route", 3) if late else ("shared", 1)), name
    calls = []
    for name in ("conv1", "layer2.1.conv2"):
        trunk.get_submodule(name).register_forward_hook(lambda *_, name=name: calls.append(name))
    all_routes = AllRoutes(trained(trunk))
    calls.clear()
    with torch.no_grad():
        prepared = all_routes.prepare(images_of())
        for index in torch.arange(3)[:, None]:
            all_routes(prepared, index, all_routes.gather(index))
    assert calls == ["conv1", "layer2.1.conv2"]


def test_convs_that_share_a_mask_are_routed_together_or_not_at_all() -> None:
    # the convs that write to layer1's residual stream share it with the stem, which comes before
    trunk = route(backbone_of("resnet18", 0.25), 3, 0.5, start="layer1")
    assert {"layer1_0_bn1", "layer1_1_bn1"} <= set(routed_convs(trunk))
    assert not {"bn1", "layer1_0_bn2"} & set(routed_convs(trunk))
    with pytest.raises(InputError, match=r"leave something to route.*layer4\.0\.downsample\.0, layer4\.1\.conv2"):
        route(backbone_of("resnet18", 0.25), 3, 0.5, layers=["layer4.0.conv2"])


def test_sigma_differs_by_layer() -> None:
    trunk = route(
        backbone_of("resnet18", 0.25), 3, 0.5, sigmas={"layer4": 0.25, "layer4.*.conv1": 1.0}, layers=["layer[34]"]
    )
    shares = {name: float(module.mask[0].double().mean()) for name, module in trunk.routers.named_children()}
    assert shares["layer3_0_bn1"] == 0.5
    assert shares["layer4_0_bn1"] == 1
    assert shares["layer4_0_bn2"] == shares["layer4_1_bn2"] == 0.25
    assert "layer2_0_bn1" not in shares


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": ["layer1"], "start": "layer3"}, r"names lies before `routing\.start`"),
        ({"layers": ["layer5"]}, r"`routing\.layers` should match layers of the backbone\. `layer5` matches none"),
        ({"start": "layr3"}, r"`routing\.start` .* `layr3` matches none of its convs, .*Did you mean `layer3`"),
        ({"sigmas": {"fc": 0.5}}, r"`routing\.sigmas` should match layers of the backbone\. `fc`"),
        ({"sigma_last": 0.0}, r"`routing\.sigma_last` should be above 0 and at most 1.*Got 0\.0"),
        ({"sigma_last": 0.001}, r"`routing\.sigma_last` = 0\.\d+ keeps no unit of layer `layer4\.\d\.conv\d`"),
        ({"sigmas": {"layer4": 1.5}}, r"`routing\.sigmas\.layer4` should be above 0 and at most 1.*Got 1\.5"),
        ({"sigmas": {"layer4": 0.001}}, r"`routing\.sigmas` = 0\.001 keeps no unit of layer `layer4\.0\.conv1`"),
    ],
)
def test_patterns_that_fit_no_layer_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        route(backbone_of("resnet18", 0.25), 3, 0.5, **options)  # type: ignore[arg-type]


def test_norms_of_unrouted_layers_stay_those_of_the_backbone() -> None:
    backbone = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.GroupNorm(2, 16), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    ).double()  # fmt: skip
    trunk = route(backbone, 3, 0.5, start="3")
    assert type(trunk.get_submodule("1")) is nn.GroupNorm
    index = torch.tensor([2])
    assert gap(Subnetwork(trunk)(images_of(), index), trunk(images_of(), index)) < 1e-12


def test_sigma_goes_linearly_with_depth_and_patterns_win() -> None:
    convs = ["a", "b", "c", "d", "e"]
    units = np.arange(10)
    # the stream of `d` lies behind that of `b`, wherever it stands in the list
    streams = [Stream(convs=names, units=units) for names in (["a"], ["d"], ["b", "e"], ["c"])]
    spec = MaskSpec(num_routes=2, sigma=1.0, sigma_last=0.25)
    assert choose_sigmas(streams, convs, spec) == [1.0, 0.25, 0.75, 0.5]
    assert choose_sigmas(streams, convs, replace(spec, start="b")) == [None, 0.25, 1.0, 0.625]
    assert choose_sigmas(streams, convs, replace(spec, sigmas={"c": 0.9})) == [1.0, 0.25, 0.75, 0.9]
    assert choose_sigmas(streams, convs, replace(spec, sigma_last=1.0)) == [1.0] * 4
    assert choose_sigmas(streams[:1], convs, spec) == [1.0]


def test_a_pass_costs_less_where_later_layers_keep_fewer_units() -> None:
    model = ModelConfig(name="resnet18", width=0.25)
    costs = [measure_pass(model, RoutingConfig(sigma=0.75, sigma_last=last), 4, 0, 32) for last in (0.25, 0.75, "none")]
    assert costs[0] < costs[1] == costs[2]
