"""The loss of a batch: every label that its samples carry for the tasks of the active route counts, and nothing else."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from helpers.reference import loss_of_route
from helpers.reference_losses import build_references
from matl_scale.data.loading.missing import SOFT
from matl_scale.models.network import RoutedModel
from matl_scale.routes import Routes
from matl_scale.routing.surgery import pass_through
from matl_scale.tasks import Task
from matl_scale.train.losses.config import LossConfig
from matl_scale.train.losses.costs import Asymmetric, Focal
from matl_scale.train.losses.task_loss import TaskLoss
from matl_scale.train.step.loss import RouteLoss
from matl_scale.train.step.slot import select_labelled

CPU = torch.device("cpu")
CLASSES = [2, 5, 3, 2, 5, 2]
# binary and multi-class tasks mixed; task 5 joined the first route later, with a head matrix of its own
TASKS = [Task(name=f"task_{i}", classes=tuple("abcde"[:count])) for i, count in enumerate(CLASSES)]
ROUTES = Routes(names=("mixed", "binary", "five"), route_of=(0, 0, 0, 1, 2, 0), head_of=(0, 0, 0, 1, 2, 3))


@pytest.mark.parametrize(
    ("labels", "chosen", "targets"),
    [
        ([1, 0, 2], [0, 1, 2], [1, 0, 2]),
        ([-1, 0, -1, 2], [1, 3], [0, 2]),
        ([-1, -1, 3], [2, 0], [3]),  # batch norm needs a companion
        ([-1, -1], [0, 1], []),
    ],
)
def test_a_route_of_one_task_trains_on_its_labelled_samples(
    labels: list[int], chosen: list[int], targets: list[int]
) -> None:
    indices, found = select_labelled(np.array(labels, dtype=np.int8)[:, None])
    assert indices.tolist() == chosen
    assert found.tolist() == [[target] for target in targets]


def test_a_route_trains_on_samples_with_a_label_for_any_of_its_tasks() -> None:
    labels = np.array([[-1, 0], [-1, -1], [2, 1], [-1, -1], [4, -1]], dtype=np.int8)
    indices, found = select_labelled(labels)
    assert indices.tolist() == [0, 2, 4]
    assert found.tolist() == [[-1, 0], [2, 1], [4, -1]]
    valid = np.array([True, False, False, True, False])
    indices, found = select_labelled(np.where(valid[:, None], labels, -1), valid)
    assert indices.tolist() == [0, 3]  # the companion has an image
    assert found.tolist() == [[-1, 0]]


def draw_labels(num_samples: int, tasks: list[int], seed: int, missing: float = 0.6) -> np.ndarray:
    """Returns labels of shape `(num_samples, num_tasks)`: every sample has at least one."""
    generator = np.random.default_rng(seed)
    labels = np.stack([generator.integers(0, CLASSES[task], num_samples) for task in tasks], axis=1)
    removed = generator.random(labels.shape) < missing
    removed[np.arange(num_samples), generator.integers(0, len(tasks), num_samples)] = False
    return np.where(removed, -1, labels)


@pytest.mark.parametrize("route", [0, 1, 2])
@pytest.mark.parametrize("untrained", [[], [2], [0, 1, 2, 5]])
def test_the_loss_is_the_mean_over_tasks_of_what_the_labels_say(route: int, untrained: list[int]) -> None:
    """`untrained` tasks have no label in the training split."""
    tasks = ROUTES.tasks_of[route]
    shares = np.array([0.3, 0.9, 0.5, 1.0, 1.0, 0.1])
    shares[untrained] = 0
    loss = RouteLoss(ROUTES, CLASSES, shares, CPU)
    labels = torch.from_numpy(draw_labels(7, tasks, seed=route))
    labels[:, [task in untrained for task in tasks]] = -1
    logits = torch.randn(8, sum(CLASSES[task] for task in tasks), dtype=torch.float64, requires_grad=True)
    costs = build_references(LossConfig(), "ignore", TASKS, np.zeros((1, 6), dtype=int))  # classes weigh alike
    found = loss(route, logits, labels)
    expected = loss_of_route(ROUTES, CLASSES, shares, route, logits, labels, costs)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    ours, theirs = (torch.autograd.grad(value, logits, allow_unused=True)[0] for value in (found, expected))
    torch.testing.assert_close(ours, torch.zeros_like(logits) if theirs is None else theirs, rtol=1e-12, atol=1e-14)
    assert not ours[7].any()  # a companion without a label


def test_one_task_per_route_has_the_plain_mean() -> None:
    loss = RouteLoss(Routes.one_per_task(["a", "b"]), [3, 2], np.array([1.0, 1.0]), CPU)
    logits, labels = torch.randn(5, 3), torch.tensor([0, 2, 1, 1, 0])
    assert torch.equal(loss(0, logits, labels[:, None]), functional.cross_entropy(logits, labels))


def test_fully_labelled_tasks_have_the_mean_of_their_means() -> None:
    loss = RouteLoss(Routes.build(["all"], [0] * 6), CLASSES, np.ones(6), CPU)
    logits = torch.randn(9, sum(CLASSES), dtype=torch.float64)
    labels = torch.from_numpy(draw_labels(9, list(range(6)), seed=4, missing=0.0))
    parts = zip(logits.split(CLASSES, dim=1), labels.unbind(dim=1), strict=True)
    means = [functional.cross_entropy(part, target) for part, target in parts]
    torch.testing.assert_close(loss(0, logits, labels), torch.stack(means).mean(), rtol=1e-12, atol=0)


def test_the_loss_is_linear_in_the_samples() -> None:
    """So it does not matter in which slot a label lies: the mean over equal parts is that of the whole batch."""
    tasks, shares = ROUTES.tasks_of[0], np.full(6, 0.4)
    loss = RouteLoss(ROUTES, CLASSES, shares, CPU)
    labels = torch.from_numpy(draw_labels(12, tasks, seed=2))
    logits = torch.randn(12, sum(CLASSES[task] for task in tasks), dtype=torch.float64)
    parts = [loss(0, logits[start : start + 3], labels[start : start + 3]) for start in range(0, 12, 3)]
    torch.testing.assert_close(torch.stack(parts).mean(), loss(0, logits, labels), rtol=1e-12, atol=0)


def test_the_mean_over_an_epoch_is_the_mean_loss_of_every_task() -> None:
    """Whatever labels are missing: a task with few labels weighs as much as one with many."""
    tasks = ROUTES.tasks_of[0]
    labels = draw_labels(40, tasks, seed=5)
    shares = np.zeros(6)
    shares[tasks] = (labels >= 0).mean(axis=0)
    logits = torch.randn(40, sum(CLASSES[task] for task in tasks), dtype=torch.float64)
    targets, means = torch.from_numpy(labels), []
    for part, target in zip(logits.split([CLASSES[task] for task in tasks], dim=1), targets.unbind(dim=1), strict=True):
        means.append(functional.cross_entropy(part, target, ignore_index=-1))
    found = RouteLoss(ROUTES, CLASSES, shares, CPU)(0, logits, targets)
    torch.testing.assert_close(found, torch.stack(means).mean(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("route", [0, 1])
def test_without_labels_the_loss_is_zero_with_a_graph(route: int) -> None:
    tasks = ROUTES.tasks_of[route]
    logits = torch.randn(4, sum(CLASSES[task] for task in tasks), requires_grad=True)
    loss = RouteLoss(ROUTES, CLASSES, np.ones(6), CPU)(route, logits, torch.zeros(0, len(tasks), dtype=torch.long))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_heads_of_many_binary_tasks_train_as_if_every_class_had_its_logit() -> None:
    """Loss and gradients are those of whole logits, to float64 rounding, also where a head matrix was added later."""
    count = 40
    routes = Routes(names=("all",), route_of=(0,) * count, head_of=(0,) * (count - 3) + (1,) * 3)
    model = RoutedModel(pass_through(5), [2] * count, 5, routes).double()
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(7, 5, dtype=torch.float64, generator=generator)
    labels = torch.randint(-1, 2, (7, count), generator=generator)
    found = []
    for logits in (model.classify(features, 0), model.classify_relative(features, 0)):
        model.zero_grad()
        loss = RouteLoss(routes, [2] * count, np.ones(count), CPU)(0, logits, labels)
        whole = model.classify(features, 0).view(-1, 2)
        expected = functional.cross_entropy(whole, labels.flatten(), ignore_index=-1, reduction="sum")
        torch.testing.assert_close(loss, expected / (7 * count))
        loss.backward()
        found.append([loss.detach(), *(parameter.grad.clone() for parameter in model.heads.parameters())])
    for whole, relative in zip(*found, strict=True):
        torch.testing.assert_close(relative, whole, rtol=1e-12, atol=1e-14)
    whole, relative = model.classify(features, 0).view(7, count, 2), model.classify_relative(features, 0)
    torch.testing.assert_close(relative.sigmoid(), whole.softmax(2)[:, :, 1])


def test_differences_of_binary_tasks_cost_what_whole_logits_cost() -> None:
    """Whatever the loss function, the weights of classes, and what fills missing labels."""
    count = 6
    routes = Routes.build(["all"], [0] * count)
    more: list[dict[str, Any]] = [
        {}, {"cost": Focal(2.0)}, {"smoothing": 0.1}, {"cost": Asymmetric(0.0, 4.0, 0.05)},
        {"class_weights": np.array([0.5, 1.5]), "adjustment": np.array([0.3, -0.2])}, {"soft_target": np.array([0.7, 0.3])},
    ]  # fmt: skip
    compute = RouteLoss(routes, [2] * count, np.ones(count), CPU, [TaskLoss(**each) for each in more])
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(9, count, 2, dtype=torch.float64, generator=generator)
    labels = torch.randint(-1, 2, (9, count), generator=generator, dtype=torch.int8)
    labels[labels[:, -1] == -1, -1] = SOFT
    found = compute(0, logits[:, :, 1] - logits[:, :, 0], labels)
    torch.testing.assert_close(found, compute(0, logits.flatten(1), labels.long()), rtol=1e-12, atol=1e-14)
