"""One dense network of many tasks gives every task's logits; what routes have in common is computed once."""

from collections.abc import Sequence

import pytest
import torch
from torch import fx, nn

from helpers.exported_networks import MANY_CLASSES, ROUTES, SIZE, SMALL, masked, on_two_routes
from helpers.network_outputs import gap, images_of
from matl_scale import InputError
from matl_scale.deploy.export.dense import dense_network
from matl_scale.models.network import RoutedModel
from matl_scale.routing.batch_norm import Statistics

STARTS = {"vgg11_bn": "features.11", "resnet18": "layer3", "group norm": "3", "convnext": "features.2"}
CASES = [(name, start) for name in SMALL for start in ("", STARTS.get(name, ""))]


def check(model: RoutedModel, task_ids: Sequence[int]) -> fx.GraphModule:
    """Compares each task's logits, and those of a second call."""
    dense = dense_network(model, task_ids)
    for _ in range(2):
        for task_id, logits in zip(task_ids, dense(images_of(SIZE)), strict=True):
            assert gap(logits, masked(model, task_id, images_of(SIZE))) < 1e-10
    return dense


def count(dense: fx.GraphModule, kind: type[nn.Module]) -> int:
    """Returns how many layers of a kind run for a batch."""
    called = [node.target for node in dense.graph.nodes if node.op == "call_module"]
    return sum(isinstance(dense.get_submodule(name), kind) for name in called)


@pytest.mark.parametrize(("name", "start"), sorted(set(CASES)))
def test_logits_of_all_tasks_are_those_of_masked_execution(name: str, start: str) -> None:
    model = on_two_routes(name, start)
    check(model, range(5))
    check(model, [4, 0, 2])  # in the order that was asked for
    for tasks in ROUTES.tasks_of:
        check(model, tasks)
    for task_id in range(5):
        assert gap(dense_network(model, task_id)(images_of(SIZE)), masked(model, task_id, images_of(SIZE))) < 1e-10


@pytest.mark.parametrize("statistics", ["route", "shared"])
def test_layers_that_no_router_follows_are_there_once(statistics: Statistics) -> None:
    model = on_two_routes("resnet18", "layer3", statistics=statistics)
    dense = check(model, range(5))
    before, routed = 10, 10  # convs in front of layer3, and from there on
    assert count(dense, nn.Conv2d) == before + 2 * routed
    assert sum(name.startswith("route_") for name, _ in dense.named_children()) == 2 * (routed + 1)  # and a head
    assert count(dense_network(model, ROUTES.tasks_of[0]), nn.Conv2d) == before + routed


def test_a_route_has_one_head() -> None:
    for dense, num_heads in ((dense_network(on_two_routes("flat"), t), n) for t, n in (([0, 2, 3], 1), (range(5), 2))):
        assert count(dense, nn.Linear) == num_heads


def test_routes_without_statistics_of_their_own_have_all_in_common() -> None:
    dense = check(on_two_routes("resnet18", sigma=1, statistics="shared"), range(5))
    assert count(dense, nn.Conv2d) == 20
    assert count(check(on_two_routes("resnet18", sigma=1), range(5)), nn.Conv2d) == 2 * 20  # norms differ


class ChangedInPlace(nn.Module):
    """Changes values that are the same for all routes: one after routed layers have read it, one by what these return."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.plain, self.back = nn.Conv2d(3, 8, 3, 4), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.routed, self.relu = nn.Conv2d(8, 8, 1), nn.ReLU(inplace=True)
        self.same, self.pool = nn.Dropout(), nn.AdaptiveAvgPool2d(1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.stem(images)
        y = self.back(self.routed(x)) + x
        x = self.plain(self.relu(self.same(x)))
        return torch.flatten(self.pool(x.add_(y)), 1)


def test_values_that_are_changed_in_place_are_not_shared() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = ChangedInPlace().double()
    dense = check(on_two_routes(net, layers=["routed"]), range(5))
    assert count(dense, nn.Conv2d) == 8


def test_tasks_that_do_not_exist_are_refused() -> None:
    model = on_two_routes("flat")
    with pytest.raises(InputError, match=rf"`task_id` should be 0 to {len(MANY_CLASSES) - 1}\. Got 5"):
        dense_network(model, [0, 5])
    with pytest.raises(InputError, match="`task_ids` should name at least one task"):
        dense_network(model, [])
