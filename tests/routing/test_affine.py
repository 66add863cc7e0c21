"""Affine weights of norms that belong to routes: both executions, evaluation, and what an optimizer moves."""

import copy

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from helpers.network_outputs import gap, images_of
from helpers.torchvision_models import backbone_of, group_norm_resnet, small_convnext
from matl_scale import InputError, route
from matl_scale.models.config import ModelConfig
from matl_scale.models.network import RoutedModel, build_model
from matl_scale.models.routing_config import RoutingConfig
from matl_scale.routing.affine import Affine
from matl_scale.routing.all_routes import AllRoutes
from matl_scale.routing.subnetwork import Subnetwork
from matl_scale.train.step.optim import OptimConfig, build_optimizer

CLASSES = [2, 3, 2]
BACKBONES = {
    "resnet18": lambda: backbone_of("resnet18", 0.25),
    "mobilenet_v3_small": lambda: backbone_of("mobilenet_v3_small"),
    "densenet121": lambda: backbone_of("densenet121", 0.5),
    "group norm": group_norm_resnet,
    "convnext": small_convnext,
}


def build(
    name: str, sigma: float = 0.5, affine: Affine = "route", start: str = "", scatter: bool = True
) -> RoutedModel:
    """Builds a network in float64 whose routes have different affine weights, some of them negative, with `scatter`."""
    trunk = route(BACKBONES[name](), len(CLASSES), sigma, affine=affine, start=start)
    images, nothing = images_of(), torch.tensor([0])
    probe = RoutedModel(trunk, CLASSES, 1)
    model = RoutedModel(trunk, CLASSES, trunk(images, nothing, probe.affine_of(0)).shape[1]).double()
    if model.affine is not None and scatter:
        generator = torch.Generator().manual_seed(1)
        for row in model.affine.rows:
            row.data *= 1 + torch.randn(row.shape, generator=generator, dtype=row.dtype)
    return model


@pytest.mark.parametrize("name", BACKBONES)
def test_sub_networks_equal_masked_execution_for_three_steps(name: str) -> None:
    masked = build(name)
    other = copy.deepcopy(masked)
    subnetwork = Subnetwork(other.trunk)
    optimizers = [build_optimizer(OptimConfig(lr=1e-4, head_lr_scale=1.0), model) for model in (masked, other)]
    for route_id in (0, 2, 0):
        index = torch.tensor([route_id])
        for model, optimizer in zip((masked, other), optimizers, strict=True):
            optimizer.zero_grad()
            if model is masked:
                features = model.trunk(images_of(), index, model.affine_of(route_id))
            else:
                features = subnetwork(images_of(), index, affine=model.affine_of(route_id))
            loss = nn.functional.cross_entropy(model.classify(features, route_id), torch.arange(4) % 2)
            (loss + features.square().mean()).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for (key, one), two in zip(masked.named_parameters(), other.parameters(), strict=True):
            assert (one.grad is None) == (two.grad is None), key
            assert one.grad is None or gap(one.grad, two.grad) < 1e-10, key
        for optimizer in optimizers:
            optimizer.step()
    for (key, value), wanted in zip(other.state_dict().items(), masked.state_dict().values(), strict=True):
        assert gap(value.double(), wanted.double()) < 1e-9, key


@pytest.mark.parametrize(
    ("name", "sigma", "start"),
    [(name, sigma, "") for name in BACKBONES for sigma in (0.5, 1.0)]
    + [("resnet18", 0.5, "layer3"), ("group norm", 0.5, "layer3")],
)
def test_all_routes_and_mixed_batches_equal_masked_execution(name: str, sigma: float, start: str) -> None:
    model = build(name, sigma, start=start).eval()
    all_routes, route_ids = AllRoutes(model.trunk), [2, 0, 1, 2]
    assert model.affine is not None
    with torch.no_grad():
        wanted = [model.trunk(images_of(), torch.tensor([i]), model.affine_of(i)) for i in range(3)]
        assert gap(wanted[0], wanted[1]) > 1e-6
        prepared, common = all_routes.prepare(images_of()), dict[int, list[torch.Tensor]]()
        for route_id, features in enumerate(wanted):
            index = torch.tensor([route_id])
            slices = all_routes.gather(index, common, model.affine_of(route_id))
            assert gap(all_routes(prepared, index, slices), features) < 1e-10
        mixed = model.trunk(images_of(), torch.tensor(route_ids), model.affine.of_each(route_ids))
        for image, route_id in enumerate(route_ids):
            assert gap(mixed[image], wanted[route_id][image]) < 1e-10


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small"])
def test_networks_start_as_those_that_share_them(name: str) -> None:
    own, shared = build(name, scatter=False), build(name, affine="shared")
    for route_id in range(3):
        index = torch.tensor([route_id])
        assert torch.equal(
            own.trunk(images_of(), index, own.affine_of(route_id)), shared.trunk(images_of(), index, None)
        )


def test_layers_that_are_not_routed_share_theirs() -> None:
    model = build("resnet18", start="layer3")
    names = {name for name, _ in model.trunk.named_parameters() if ".bn" in name or name.startswith("bn")}
    assert names
    assert all(not name.startswith(("layer3", "layer4")) for name in names)
    assert {name for name, _ in model.trunk.named_parameters()} >= {"bn1.weight", "layer2.0.bn1.bias"}


@pytest.mark.parametrize("momentum", [OptimConfig(name="sgd", lr=0.1), OptimConfig(lr=0.1)], ids=["sgd", "adamw"])
def test_only_the_route_that_runs_moves_and_only_its_units(momentum: OptimConfig) -> None:
    model = build("resnet18", scatter=False)
    optimizer = build_optimizer(OptimConfig(name=momentum.name, lr=0.1, head_lr_scale=2.0), model)
    assert model.affine is not None
    for route_id in (1, 0):
        before = [row.detach().clone() for row in model.affine.rows]
        optimizer.zero_grad()
        features = model.trunk(images_of(), torch.tensor([route_id]), model.affine_of(route_id))
        features.square().sum().backward()
        optimizer.step()
        moved = [not torch.equal(row, old) for row, old in zip(model.affine.rows, before, strict=True)]
        assert moved == [i == route_id for i in range(3)]
    start = build("resnet18", scatter=False)
    assert start.affine is not None
    mask = model.trunk.get_submodule("routers.bn1").mask[1]
    change = (model.affine.of(1)[0] - start.affine.of(1)[0]).detach()
    assert torch.equal(change != 0, mask.expand(2, -1))


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # raised by dynamo itself,
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # and this
def test_one_compilation_serves_all_routes() -> None:
    trunk = route(backbone_of("vgg11_bn", 0.125).float(), 12, 0.5, affine="route")
    model, counters = RoutedModel(trunk, [2] * 12, 64), [CompileCounterWithBackend("aot_eager") for _ in range(3)]
    subnetwork = Subnetwork(trunk)
    network = torch.compile(subnetwork, backend=counters[0], fullgraph=True)
    gather = torch.compile(subnetwork.gather, backend=counters[1], fullgraph=True)
    masked = torch.compile(trunk, backend=counters[2], fullgraph=True)
    images = torch.randn(4, 3, 32, 32)
    for route_id in range(12):  # more than the limit after which dynamo gives up
        index = torch.tensor([route_id])
        network(images, index, gather(index, affine=model.affine_of(route_id))).square().sum().backward()
        masked(images, index, model.affine_of(route_id)).square().sum().backward()
    assert [counter.frame_count for counter in counters] == [1, 1, 1]
    assert model.affine is not None
    assert all(row.grad is not None for row in model.affine.rows)


def test_a_backbone_without_norms_is_refused() -> None:
    routing = RoutingConfig(sigma=0.5, affine="route")
    with pytest.raises(
        InputError, match=r"`routing.affine` = route needs norms in the routed layers, and `vgg11` has none"
    ):
        build_model(ModelConfig(name="vgg11", width=0.25), routing, CLASSES, 0, 32)


def test_the_weights_of_the_route_have_to_be_given() -> None:
    model = build("resnet18")
    for run in (model.trunk, Subnetwork(model.trunk)):
        with pytest.raises(
            ValueError, match=r"should be given those of the active route: `model.affine_of\(route_id\)`"
        ):
            run(images_of(), torch.tensor([0]))
