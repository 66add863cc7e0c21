"""What a step sends: only what belongs to the routes that it runs."""

import numpy as np
import pytest
import torch

from matl_scale.models.config import ModelConfig
from matl_scale.models.network import RoutedModel, build_model
from matl_scale.models.routing_config import RoutingConfig
from matl_scale.routes import Routes
from matl_scale.routing.batch_norm import route_norms
from matl_scale.train.step.sync import StepSync

SLOTS = np.array([3, 15, 3, 0])  # the routes of four slots, on one rank or on four


def build(num_tasks: int, routing: RoutingConfig) -> RoutedModel:
    """Builds a network in which sixteen routes serve all tasks in turn; every 13th task has five classes."""
    classes = [5 if task % 13 == 12 else 2 for task in range(num_tasks)]
    routes = Routes.build([f"route_{i}" for i in range(16)], [task % 16 for task in range(num_tasks)])
    return build_model(ModelConfig(name="resnet18", width=0.125), routing, classes, 0, 32, routes)


@pytest.mark.parametrize("start", ["", "layer3"])
def test_bytes_of_a_step_for_312_tasks_on_16_routes(start: str) -> None:
    model = build(312, RoutingConfig(sigma=0.5, start=start))
    num_features = model.heads[0].in_features
    values = 3 * len(SLOTS) + 1
    for route in (0, 3, 15):
        tasks = [task for task in range(312) if task % 16 == route]
        classes = sum(5 if task % 13 == 12 else 2 for task in tasks)
        values += len(tasks) + classes * (num_features + 1)
        # means and variances of the units that the route keeps, and a count per norm
        values += sum(norm.running[route].numel() + 1 for norm in route_norms(model) if norm.statistics == "route")
    # of layers that are not routed, once: means, variances and a count for every unit
    values += sum(3 * norm.num_features for norm in route_norms(model) if norm.statistics == "shared")
    assert any(norm.statistics == "shared" for norm in route_norms(model)) == bool(start)
    sync = StepSync(model, world_size=1, accumulate=4)
    result = sync.exchange(SLOTS)
    assert result.num_bytes == 4 * values
    assert result.labels.tolist() == [0] * 312


def test_bytes_do_not_depend_on_tasks_of_other_routes() -> None:
    few, many = Routes.build("abc", [0, 1, 2]), Routes.build("abc", [0, 1, 2] + [2] * 500)
    sizes = []
    for routes in (few, many):
        model = build_model(
            ModelConfig(name="resnet18", width=0.125), RoutingConfig(sigma=0.5), [2] * routes.num_tasks, 0, 32, routes
        )
        sizes.append(StepSync(model, world_size=1, accumulate=2).exchange(np.array([0, 1])).num_bytes)
    assert sizes[0] == sizes[1]


def test_a_head_without_a_labelled_sample_in_any_slot_has_no_gradient() -> None:
    """Though its route ran; the head of another route is divided by the number of slots with a labelled sample."""
    model = build(32, RoutingConfig(sigma=0.5))
    sync, nothing = StepSync(model, world_size=1, accumulate=4), np.full((0, 2), -1)
    labels = np.array([[1, -1], [0, 1], [-1, 1]])
    for slot, (route, found) in enumerate(zip(SLOTS.tolist(), (labels, nothing, labels[:1], nothing), strict=True)):
        sync.statistics.begin_slots([route])
        sync.statistics.end_slots([route], count=len(found) > 0)
        sync.record(slot, route, torch.tensor(0.5 * len(found)), found, damaged=slot)
    for route in (0, 3, 15):
        for parameter in model.heads[route].parameters():
            parameter.grad = torch.ones_like(parameter) / 4
    result = sync.exchange(SLOTS)
    assert [head.weight.grad is None for head in model.heads] == [route != 3 for route in range(16)]
    assert (model.heads[3].weight.grad == 0.5).all()
    assert result.labelled.tolist() == [3, 0, 1, 0]
    assert result.losses.tolist() == [1.5, 0, 0.5, 0]
    assert result.damaged.tolist() == [0, 1, 2, 3]
    assert {task: count for task, count in enumerate(result.labels.tolist()) if count} == {3: 3, 19: 2}
    assert result.nonfinite == []
    assert not result.stop


@pytest.mark.parametrize(("broken", "expected"), [("loss", [15]), ("gradient", [0])])
def test_the_route_that_brought_a_number_that_is_not_finite_is_named(broken: str, expected: list[int]) -> None:
    model = build(32, RoutingConfig(sigma=0.5))
    sync, labels = StepSync(model, world_size=1, accumulate=4), np.array([[1, 0]])
    for slot, route in enumerate(SLOTS.tolist()):
        loss = torch.tensor(float("nan") if (broken, route) == ("loss", 15) else 0.7)
        sync.record(slot, route, loss, labels, damaged=0)
    model.heads[0].bias.grad = torch.full_like(model.heads[0].bias, float("inf"))
    assert sync.exchange(SLOTS).nonfinite == expected
