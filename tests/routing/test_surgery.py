"""`route()` on torchvision's CNNs: nothing changes at σ = 1, sub-networks are closed, other networks are refused by name."""

import copy

import pytest
import torch
from torch import fx, nn
from torch._dynamo.testing import CompileCounter

from helpers.torchvision_models import FAMILIES, backbone_of, shallow_mobilenet
from matl_scale import InputError, route
from matl_scale.models.backbones import build_backbone
from matl_scale.models.config import ModelConfig
from matl_scale.models.network import build_model
from matl_scale.models.routing_config import RoutingConfig
from matl_scale.routing.batch_norm import RouteBatchNorm2d

TASK = torch.tensor([2])


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
def test_sigma_one_equals_the_unrouted_network(name: str, train: bool) -> None:
    backbone = backbone_of(name).train(train)
    routed = route(backbone, num_routes=3, sigma=1.0).train(train)
    images = torch.randn(4, 3, 64, 64, dtype=torch.float64)
    expected, actual = backbone(images), routed(images, TASK)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)
    expected.square().sum().backward()
    actual.square().sum().backward()
    wanted = dict(backbone.named_parameters())
    for key, parameter in routed.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[key].grad, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_sub_network_is_closed(name: str) -> None:
    """Inactive units can be overwritten without changing a route's features, and they get no gradient."""
    routed = route(backbone_of(name), num_routes=5, sigma=0.5, seed=1)
    images = torch.randn(3, 3, 64, 64, dtype=torch.float64)
    features = routed(images, TASK)
    features.square().sum().backward()
    noisy = copy.deepcopy(routed)
    seen = 0
    for module_name, mask in routed_modules(routed):
        off = ~mask[TASK.item()]
        for key, parameter in routed.get_submodule(module_name).named_parameters():
            assert parameter.grad is not None
            assert not parameter.grad[off].any(), (module_name, key)
            with torch.no_grad():
                noisy.get_parameter(f"{module_name}.{key}")[off] = 7.0
            seen += 1
    assert seen > 8
    torch.testing.assert_close(noisy(images, TASK), features, rtol=1e-10, atol=1e-12)


def routed_modules(routed: fx.GraphModule) -> list[tuple[str, torch.Tensor]]:
    """Returns each conv and norm with the mask of its output channels."""
    found = []
    for node in routed.graph.nodes:
        if node.op == "call_module" and str(node.target).startswith("routers."):
            mask = routed.get_submodule(node.target).mask
            source = node.args[0]
            found.append((source.target, mask))
            before = source.args[0]
            is_norm = isinstance(routed.get_submodule(source.target), RouteBatchNorm2d)
            if is_norm and before.op == "call_module" and isinstance(routed.get_submodule(before.target), nn.Conv2d):
                found.append((before.target, mask))
    return found


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small"])
def test_every_conv_is_routed_and_no_unit_is_dead(name: str) -> None:
    routed = route(backbone_of(name), num_routes=4, sigma=0.5)
    covered = {module for module, _ in routed_modules(routed)}
    convs = {key for key, module in routed.named_modules() if isinstance(module, nn.Conv2d)}
    assert convs <= covered
    for _, mask in routed_modules(routed):
        assert mask.any(dim=0).all()
        assert len(set(mask.sum(dim=1).tolist())) == 1


def test_convs_of_one_residual_stream_share_a_mask() -> None:
    masks = dict(routed_modules(route(backbone_of("resnet18"), num_routes=4, sigma=0.5)))
    assert torch.equal(masks["conv1"], masks["layer1.1.conv2"])
    assert torch.equal(masks["layer2.0.conv2"], masks["layer2.0.downsample.0"])
    assert not torch.equal(masks["layer1.0.conv1"], masks["layer1.1.conv1"])


def test_mixed_task_batch_equals_each_task_alone() -> None:
    routed = route(backbone_of("resnet18"), num_routes=3, sigma=0.5)
    images = torch.randn(6, 3, 32, 32, dtype=torch.float64)
    for route_id in range(3):
        routed(images, torch.tensor([route_id]))  # statistics that differ between routes
    routed.eval()
    routes = torch.tensor([0, 2, 1, 1, 0, 2])
    mixed = routed(images, routes)
    for i, route_id in enumerate(routes):
        torch.testing.assert_close(mixed[i : i + 1], routed(images[i : i + 1], route_id[None]), rtol=1e-9, atol=1e-11)


def test_evaluation_is_deterministic_where_training_is_not() -> None:
    backbone = build_backbone(
        ModelConfig(name="efficientnet_b0", width=1.0, stem="standard"), seed=0
    )  # stochastic depth
    routed = route(backbone, num_routes=3, sigma=0.5)
    images = torch.randn(4, 3, 32, 32)
    assert not torch.equal(routed(images, TASK), routed(images, TASK))
    routed.eval()
    assert torch.equal(routed(images, TASK), routed(images, TASK))


def test_one_compilation_serves_all_routes() -> None:
    counter = CompileCounter()
    routed = route(shallow_mobilenet().float(), num_routes=12, sigma=0.5)
    compiled = torch.compile(routed, backend=counter, fullgraph=True)
    images = torch.randn(4, 3, 32, 32)
    for route_id in range(12):  # more than the limit after which dynamo gives up
        compiled(images, torch.tensor([route_id])).sum().backward()
    assert counter.frame_count == 1


@pytest.mark.parametrize(("name", "module"), [("shufflenet_v2_x0_5", "stage2.0")])
def test_what_cannot_be_routed_is_refused_by_name(name: str, module: str) -> None:
    model = ModelConfig(name=name, width=1.0, stem="standard")
    with pytest.raises(InputError, match=module or r"model\.name"):
        build_model(model, RoutingConfig(sigma=0.5), [2], seed=0, image_size=64)


def test_unknown_model_offers_the_nearest() -> None:
    with pytest.raises(InputError, match="Did you mean `resnet18`"):
        build_backbone(ModelConfig(name="resnet81"), seed=0)


def test_sigma_that_keeps_no_unit_names_the_layer() -> None:
    with pytest.raises(InputError, match="keeps no unit of layer `conv1`, which has 64"):
        route(backbone_of("resnet18", 1), num_routes=3, sigma=0.001)


class OddNet(nn.Module):
    """Two convs, joined by an operation that routing cannot follow."""

    def __init__(self, join: str) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(ins, 8, 3, padding=1) for ins in (3, 3, 16 if join == "cat" else 8))
        self.join = join
        self.register_buffer("scale", torch.ones(8, 1, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        a, b = self.a(images), self.b(images)
        joined = {
            "cat": lambda: torch.cat([a, torch.sigmoid(b)], 1),
            "by name": lambda: torch.mul(a, other=b),
            "constant": lambda: a + 1.0,
            "buffer": lambda: a * self.scale,
            "dropout": lambda: nn.functional.dropout(a, 0.5, self.training),
        }[self.join]()
        return self.c(joined).mean((2, 3))


@pytest.mark.parametrize("join", ["cat", "by name", "constant", "buffer", "dropout"])
def test_what_would_give_wrong_numbers_is_refused(join: str) -> None:
    with pytest.raises(InputError, match="This backbone cannot be routed: module `"):
        route(OddNet(join), 3, 0.5)
