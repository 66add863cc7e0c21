"""Masks that move in place: every buffer is that of a network built with these masks, and execution stays what it was."""

import copy

import pytest
import torch
from torch import fx, nn
from torch._dynamo.testing import CompileCounterWithBackend

from helpers.network_outputs import gap, images_of
from helpers.reference_moves import copy_values, masks_by_router
from helpers.torchvision_models import backbone_of, group_norm_resnet, small_convnext
from matl_scale import InputError, route
from matl_scale.routing.all_routes import AllRoutes
from matl_scale.routing.batch_norm import Statistics
from matl_scale.routing.move import check_movable, feature_units, set_masks, stream_masks
from matl_scale.routing.subnetwork import Subnetwork
from matl_scale.train.masks.moves import Moves, draw_move

NUM_ROUTES = 3
BACKBONES = {
    "vgg11": lambda: backbone_of("vgg11", 0.25),
    "vgg11_bn": lambda: backbone_of("vgg11_bn", 0.25),
    "resnet18": lambda: backbone_of("resnet18", 0.25),
    "mobilenet_v3_small": lambda: backbone_of("mobilenet_v3_small"),
    "densenet121": lambda: backbone_of("densenet121", 0.5),
    "group norm": group_norm_resnet,
    "convnext": small_convnext,
}


def move(trunk: fx.GraphModule, moves: Moves, seed: int = 0) -> dict[str, torch.Tensor]:
    """Moves the masks of a trunk once; returns them."""
    masks = stream_masks(trunk)
    moved, exchanged = draw_move(masks, moves.tried(masks), seed, len(moves.steps))
    set_masks(trunk, moved)
    moves.add(len(moves.steps), exchanged)
    return moved


def build(name: str, statistics: Statistics = "route") -> tuple[fx.GraphModule, nn.Module]:
    """Returns a routed trunk, whose first two routes have been trained, and the backbone behind it."""
    backbone = BACKBONES[name]()
    trunk = route(backbone, NUM_ROUTES, 0.5, strategy="roaming", statistics=statistics, seed=1)
    with torch.no_grad():
        for number in range(4):
            trunk(images_of() * (1 + number), torch.tensor([number % 2]))
    return trunk, backbone


@pytest.mark.parametrize("statistics", ["route", "shared"])
@pytest.mark.parametrize("name", BACKBONES)
def test_every_buffer_is_that_of_a_network_built_with_the_moved_masks(name: str, statistics: Statistics) -> None:
    trunk, backbone = build(name, statistics)
    check_movable(trunk)
    sliced, all_routes, moves = Subnetwork(trunk), AllRoutes(trunk), Moves()
    wanted = trunk
    for _ in range(3):
        before = copy.deepcopy(trunk)
        masks = move(trunk, moves)
        wanted = route(
            backbone, NUM_ROUTES, 0.5, strategy="roaming", statistics=statistics, earlier=masks_by_router(trunk, masks)
        )
        copy_values(before, wanted)
    for network in (sliced, all_routes):
        network.follow_masks()
    assert_equal_buffers(trunk, wanted)
    assert_equal_buffers(sliced, Subnetwork(wanted))
    assert_equal_buffers(all_routes, AllRoutes(wanted))
    for node, twin in zip(trunk.graph.nodes, wanted.graph.nodes, strict=True):
        assert ("active" in node.meta) == ("active" in twin.meta)
        assert "active" not in node.meta or torch.equal(node.meta["active"], twin.meta["active"])


def assert_equal_buffers(actual: nn.Module, wanted: nn.Module) -> None:
    """Compares all buffers, those too that no checkpoint holds."""
    buffers = dict(wanted.named_buffers())
    found = dict(actual.named_buffers())
    assert found.keys() == buffers.keys()
    for name, value in buffers.items():
        assert found[name].dtype == value.dtype, name
        if value.dtype.is_floating_point:
            assert gap(found[name], value) < 1e-12, name
        else:
            assert torch.equal(found[name], value), name


@pytest.mark.parametrize("name", BACKBONES)
def test_sub_network_equals_masked_execution_after_moves(name: str) -> None:
    trunk, _ = build(name)
    sliced, all_routes, moves = Subnetwork(trunk), AllRoutes(trunk), Moves()
    for _ in range(2):
        move(trunk, moves)
    for network in (sliced, all_routes):
        network.follow_masks()
    other = copy.deepcopy(trunk)
    route_id = torch.tensor([NUM_ROUTES - 1])
    wanted, actual = other(images_of(), route_id), sliced(images_of(), route_id)
    assert gap(actual, wanted) < 1e-10
    wanted.square().sum().backward()
    actual.square().sum().backward()
    for (key, parameter), twin in zip(trunk.named_parameters(), other.parameters(), strict=True):
        assert gap(parameter.grad, twin.grad) < 1e-8, key
    trunk.eval()
    with torch.no_grad():
        prepared = all_routes.prepare(images_of())
        for number in range(NUM_ROUTES):
            route_id = torch.tensor([number])
            wanted = trunk(images_of(), route_id)
            assert gap(all_routes(prepared, route_id, all_routes.gather(route_id)), wanted) < 1e-10


def test_a_copy_moves_without_its_original() -> None:
    """The moving average of a run is one."""
    trunk, _ = build("vgg11_bn")
    twin, before = copy.deepcopy(trunk), copy.deepcopy(trunk)
    still = copy.deepcopy(trunk)
    network = Subnetwork(still)
    move(twin, Moves())
    assert_equal_buffers(trunk, before)
    set_masks(trunk, stream_masks(twin))
    assert_equal_buffers(trunk, twin)
    assert_equal_buffers(network, Subnetwork(still))
    assert_equal_buffers(Subnetwork(still), Subnetwork(before))


def test_each_route_tries_every_unit_once_and_keeps_as_many() -> None:
    trunk, _ = build("resnet18")
    first, moves = stream_masks(trunk), Moves()
    num_moves = max(int((~mask[0]).sum()) for mask in first.values())
    for _ in range(num_moves):
        before = stream_masks(trunk)
        masks = move(trunk, moves)
        for name, mask in masks.items():
            changed = 0 if moves.tried(before)[name].all() and len(moves.given_up[name]) < len(moves.steps) else 1
            assert torch.equal(mask.sum(dim=1), first[name].sum(dim=1))
            assert ((mask & ~before[name]).sum(dim=1) == changed).all()
    assert all(tried.all() for tried in moves.tried(masks).values())
    for name, mask in first.items():
        taken = moves.taken[name].T.tolist()
        for number, row in enumerate(taken):
            assert sorted(row + mask[number].nonzero().flatten().tolist()) == list(range(mask.shape[1]))
        assert torch.equal(moves.first(masks)[name], mask)
    assert len({tuple(row) for row in taken}) == NUM_ROUTES, "routes move independently"
    restored = Moves()
    restored.load_state_dict(moves.state_dict())
    assert draw_move(masks, restored.tried(masks), 0, num_moves)[1] == {}, "all is tried"


def test_moves_are_a_function_of_seed_and_number() -> None:
    masks = stream_masks(build("vgg11")[0])
    drawn = [draw_move(masks, masks, seed, number)[0] for seed, number in ((0, 0), (0, 0), (1, 0), (0, 1))]
    same = [all(torch.equal(drawn[0][name], other[name]) for name in masks) for other in drawn]
    assert same == [True, True, False, False]


def test_feature_units_are_those_of_channels_whatever_the_size_of_images() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten()).double()
    assert len(feature_units(route(net, 3, 0.5))) == 8


class Halves(nn.Module):
    """Uses half of a conv's channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 2, 1)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.norm(self.first(images)), self.second(images)], 1).mean((2, 3))


def test_streams_of_a_concatenation_move_each_by_itself() -> None:
    trunk = route(Halves(), 2, 0.5)
    check_movable(trunk)
    masks = move(trunk, Moves())
    assert sorted(len(mask[0]) for mask in masks.values()) == [2, 4]


def test_a_layer_with_a_part_of_a_stream_cannot_move() -> None:
    trunk = route(Halves(), 2, 0.5)
    node = next(node for node in trunk.graph.nodes if node.target == "norm")
    node.meta["channels"].units[0] = node.meta["channels"].units[1]
    with pytest.raises(InputError, match="`norm` has only a part of the channels of `first`"):
        check_movable(trunk)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # raised by dynamo itself,
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # and this
def test_moves_compile_nothing_again() -> None:
    trunk = route(backbone_of("vgg11_bn", 0.25).float(), NUM_ROUTES, 0.5)
    subnetwork, moves = Subnetwork(trunk), Moves()
    counters = [CompileCounterWithBackend("aot_eager") for _ in range(2)]
    network = torch.compile(subnetwork, backend=counters[0], fullgraph=True)
    gather = torch.compile(subnetwork.gather, backend=counters[1], fullgraph=True)
    images = torch.randn(4, 3, 32, 32)
    for number in range(10):  # more than the limit after which dynamo gives up
        route_id = torch.tensor([number % NUM_ROUTES])
        trunk.zero_grad()
        network(images, route_id, gather(route_id)).square().sum().backward()
        move(trunk, moves)
        subnetwork.follow_masks()
    assert [counter.frame_count for counter in counters] == [1, 1]
    trunk.eval()
    with torch.no_grad():
        assert gap(subnetwork(images, route_id), trunk(images, route_id)) < 1e-4
