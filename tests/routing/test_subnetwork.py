"""Sub-network execution computes what masked execution computes: features, every gradient, statistics, whole trainings."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from helpers.network_outputs import gap, images_of
from helpers.torchvision_models import FAMILIES, backbone_of, group_norm_resnet, shallow_mobilenet, small_convnext
from matl_scale import InputError, route
from matl_scale.models.network import RoutedModel
from matl_scale.routing.all_routes import AllRoutes
from matl_scale.routing.batch_norm import Statistics
from matl_scale.routing.masks import Strategy
from matl_scale.routing.subnetwork import Subnetwork
from matl_scale.train.step.optim import OptimConfig, build_optimizer

Setting = tuple[int, float, Strategy, Statistics]
SETTINGS: list[Setting] = [
    (1, 0.5, "random", "route"), (7, 0.5, "random", "route"), (40, 0.3, "random", "shared"), (2, 0.25, "partition", "route"),
    (3, 1.0, "random", "route"),
]  # fmt: skip
BACKBONES: dict[str, Callable[[], nn.Module]] = {name: (lambda name=name: backbone_of(name)) for name in FAMILIES}
BACKBONES |= {"group norm": group_norm_resnet, "convnext": small_convnext}
SGD = OptimConfig(name="sgd", lr=1e-3, head_lr_scale=1)
ADAMW = OptimConfig(name="adamw", lr=1e-4, head_lr_scale=1)


def assert_equal_state(actual: nn.Module, wanted: nn.Module, limit: float = 1e-10) -> None:
    for (name, value), other in zip(actual.state_dict().items(), wanted.state_dict().values(), strict=True):
        assert gap(value.double(), other.double()) < limit, name


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
@pytest.mark.parametrize("name", BACKBONES)
def test_features_gradients_and_statistics_equal_masked_execution(name: str, setting: Setting) -> None:
    num_routes, sigma, strategy, statistics = setting
    masked = route(BACKBONES[name](), num_routes, sigma, strategy=strategy, statistics=statistics, seed=1)
    owner = copy.deepcopy(masked)
    subnetwork = Subnetwork(owner)
    for route_id in {0, num_routes - 1}:
        route_id = torch.tensor([route_id])
        wanted, actual = masked(images_of(), route_id), subnetwork(images_of(), route_id)
        assert gap(actual, wanted) < 1e-10
        masked.zero_grad()
        owner.zero_grad()
        wanted.square().sum().backward()
        actual.square().sum().backward()
        scale = max(float(parameter.grad.abs().max()) for parameter in masked.parameters())
        for (key, parameter), other in zip(masked.named_parameters(), owner.parameters(), strict=True):
            assert float((parameter.grad - other.grad).abs().max()) < 1e-10 * max(scale, 1), key
    assert_equal_state(owner, masked)
    masked.eval()
    owner.eval()
    all_routes = AllRoutes(owner)
    with torch.no_grad():
        prepared = all_routes.prepare(images_of())
        for number in {0, num_routes - 1}:
            route_id = torch.tensor([number])
            wanted = masked(images_of(), route_id)
            assert gap(subnetwork(images_of(), route_id), wanted) < 1e-10
            assert gap(all_routes(prepared, route_id, all_routes.gather(route_id)), wanted) < 1e-10


@pytest.mark.parametrize(
    ("name", "optim"),
    [
        ("vgg11", SGD), ("vgg11_bn", ADAMW), ("resnet18", SGD), ("resnet18", ADAMW), ("resnet50", SGD),
        ("mobilenet_v3_small", SGD), ("efficientnet_b0", ADAMW), ("convnext", SGD), ("convnext", ADAMW),
    ],
    ids=lambda value: value if isinstance(value, str) else value.name,
)  # fmt: skip
def test_twenty_optimizer_steps_equal_masked_execution(name: str, optim: OptimConfig) -> None:
    trunk = route(BACKBONES[name](), 5, 0.5)
    num_features = trunk(images_of(), torch.tensor([0])).shape[1]
    masked = RoutedModel(trunk, [2, 3, 2, 2, 4], num_features).double()
    other = copy.deepcopy(masked)
    executions = [(masked, masked.trunk), (other, Subnetwork(other.trunk))]
    for model, run in executions:
        optimizer = build_optimizer(optim, model)
        for step in range(20):
            route_id = step * 3 % 5
            images = images_of() * (1 + step % 3)
            optimizer.zero_grad()
            logits = model.heads[route_id](run(images, torch.tensor([route_id])))
            nn.functional.cross_entropy(logits, torch.arange(4) % 2).backward()
            # exploding weights would magnify rounding errors without limit
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
    assert_equal_state(other, masked)


def test_autocast_and_gradient_scaling_give_full_gradients_in_float32() -> None:
    # without norms: those of a small batch magnify the rounding of bfloat16 to half of the gradient
    trunk = route(backbone_of("vgg11", 0.25).float(), 3, 0.5)
    route_id = torch.tensor([1])
    exact = copy.deepcopy(trunk).double()
    exact(images_of(), route_id).square().mean().backward()
    for run in (trunk, Subnetwork(trunk)):
        trunk.zero_grad()
        scaler = torch.amp.GradScaler("cpu", init_scale=1024)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            features = run(images_of().float(), route_id)
        scaler.scale(features.float().square().mean()).backward()
        scaler.unscale_(torch.optim.SGD(trunk.parameters(), lr=0))
        for parameter, wanted in zip(trunk.parameters(), exact.parameters(), strict=True):
            assert parameter.grad.dtype == torch.float32
            assert (parameter.grad - wanted.grad).norm() < 0.2 * wanted.grad.norm()
        convs = [module for module in trunk.modules() if isinstance(module, nn.Conv2d)]
        active_before = torch.ones(3, dtype=torch.bool)
        for conv, router in zip(convs, trunk.routers.children(), strict=True):
            active = router.mask[1].bool()
            assert not conv.weight.grad[~active].any()
            assert not conv.weight.grad[:, ~active_before].any()
            assert not conv.bias.grad[~active].any()
            assert conv.weight.grad[active][:, active_before].any()
            active_before = active


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # raised by dynamo itself,
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # and this
@pytest.mark.parametrize("build", [shallow_mobilenet, lambda: backbone_of("vgg11_bn")], ids=["mobilenet", "vgg"])
def test_one_compilation_serves_all_routes(build: Callable[[], nn.Module]) -> None:
    trunk = route(build().float(), 12, 0.5)
    subnetwork = Subnetwork(trunk)
    counters = [CompileCounterWithBackend("aot_eager") for _ in range(2)]
    network = torch.compile(subnetwork, backend=counters[0], fullgraph=True)
    gather = torch.compile(subnetwork.gather, backend=counters[1], fullgraph=True)
    images = torch.randn(4, 3, 32, 32)
    for route_id in range(12):  # more than the limit after which dynamo gives up
        route_id = torch.tensor([route_id])
        trunk.zero_grad()
        network(images, route_id, gather(route_id)).square().sum().backward()
    assert [counter.frame_count for counter in counters] == [1, 1]
    compiled = [parameter.grad for parameter in trunk.parameters()]
    trunk.zero_grad()
    subnetwork(images, route_id).square().sum().backward()
    for parameter, gradient in zip(trunk.parameters(), compiled, strict=True):
        assert gap(gradient, parameter.grad) < 1e-3


def test_flattened_features_of_images_of_another_size() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten()).double()
    trunk = route(net, 3, 0.5)
    subnetwork, route_id = Subnetwork(trunk), torch.tensor([1])
    shared = AllRoutes(route(net, 3, 1.0, statistics="shared").eval())
    assert shared.prepare(images_of(32))[0].shape[1] == 8, "the flatten is left to each route"
    for size in (32, 64):
        assert gap(subnetwork(images_of(size), route_id), trunk(images_of(size), route_id)) < 1e-12


def test_a_mixed_task_batch_is_refused() -> None:
    trunk = route(backbone_of("vgg11", 0.25), 3, 0.5).eval()
    with pytest.raises(InputError, match=r"Got 3 routes in one batch.*masked"):
        Subnetwork(trunk)(images_of(), torch.tensor([0, 1, 2]))
