"""The section `loss`: what labels cost, against plain formulas, and what the network is trained for by it."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from helpers.reference import loss_of_route
from helpers.reference_losses import build_references
from matl_scale.data.loading.missing import choose_fills, fill_missing
from matl_scale.data.loading.plan import RouteOrder
from matl_scale.data.shards.labels import Labels
from matl_scale.errors import InputError
from matl_scale.routes import Routes
from matl_scale.tasks import Task
from matl_scale.train.losses.class_weights import ClassShares
from matl_scale.train.losses.config import LossConfig
from matl_scale.train.losses.costs import Asymmetric, Cost, CrossEntropy, Focal
from matl_scale.train.losses.task_loss import TaskLoss, build_task_losses, check_losses
from matl_scale.train.step.loss import RouteLoss

CPU = torch.device("cpu")
CLASSES = [2, 5, 3, 2, 5, 2]
NAMES = ["pos_a", "five_a", "three", "pos_b", "five_b", "pos_c"]
TASKS = [Task(name=name, classes=tuple("abcde"[:count])) for name, count in zip(NAMES, CLASSES, strict=True)]
ROUTES = Routes(names=("mixed", "binary", "five"), route_of=(0, 0, 0, 1, 2, 0), head_of=(0, 0, 0, 1, 2, 3))
MIXED: dict[str, Any] = {"pos_*": "asymmetric", "pos_c": "focal", "five_*": "logit_adjusted"}
CONFIGS: dict[str, tuple[LossConfig, Any]] = {
    "default": (LossConfig(), "ignore"),
    "focal": (LossConfig(name="focal"), "ignore"),
    "focal, small exponent": (LossConfig(name="focal", gamma=0.5), "ignore"),
    "adjusted": (LossConfig(name="logit_adjusted", tau=0.7), "ignore"),
    "mixed": (LossConfig(name=MIXED), "ignore"),
    "no margin": (LossConfig(name=MIXED, margin=0.0, gamma_positive=0.0), "ignore"),
    "inverse": (LossConfig(class_weight="inverse"), "ignore"),
    "square root, smoothed": (LossConfig(class_weight="sqrt", label_smoothing=0.1), "ignore"),
    "effective, adjusted": (LossConfig(name="logit_adjusted", class_weight="effective", beta=0.9), "ignore"),
    "given": (LossConfig(class_weight={"*": "inverse", "five_a": {"b": 7.0, "d": 0.2}, "pos_c": "none"}), "ignore"),
    "weighted tasks": (LossConfig(task_weight={"*": 2.0, "pos_?": 0.25}), "ignore"),
    "negative": (LossConfig(class_weight="inverse"), {"pos_*": "negative"}),
    "soft": (LossConfig(class_weight="inverse", label_smoothing=0.2), "soft"),
    "everything": (
        LossConfig(name=MIXED, class_weight="sqrt", label_smoothing=0.05, task_weight={"five_a": 3.0}),
        {"*": "soft", "pos_b": "negative", "three": "ignore"},
    ),
}


def draw_labels(num_samples: int = 200, missing: float = 0.5) -> np.ndarray:
    """Returns labels of all tasks, shape `(num_samples, num_tasks)`, of unequal classes; every sample has one for each route."""
    generator = np.random.default_rng(1)
    shares = [np.array([5.0, 1.0, 1.0, 0.5, 2.0][:count]) for count in CLASSES]
    columns = [generator.choice(len(share), num_samples, p=share / share.sum()) for share in shares]
    labels = np.stack(columns, axis=1).astype(np.int8)
    removed = generator.random(labels.shape) < missing
    removed[:, [2, 3, 4]] = False
    return np.where(removed, -1, labels).astype(np.int8)


def build_order(labels: np.ndarray, routes: Routes, balance: float = 0.0, missing: Any = "ignore") -> RouteOrder:
    fills = choose_fills(missing, TASKS[: routes.num_tasks], balance)
    return RouteOrder(0, 8, Labels.of_matrix(labels), routes, balance, fills)


def build_losses(config: LossConfig, missing: Any, order: RouteOrder, tasks: list[Task]) -> list[TaskLoss]:
    def shares_of(task: int) -> ClassShares:
        padding = [np.pad(array, (0, tasks[task].num_classes - len(array))) for array in order.class_shares(task)]
        return ClassShares(*padding)

    soft = np.flatnonzero(choose_fills(missing, tasks, 0.0) == -2).tolist()
    return build_task_losses(config, tasks, shares_of, soft, balanced=order.balance > 0)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("route", [0, 1, 2])
def test_losses_and_gradients_are_those_of_plain_formulas(name: str, route: int) -> None:
    config, missing = CONFIGS[name]
    labels, tasks = draw_labels(), ROUTES.tasks_of[route]
    order = build_order(labels, ROUTES, missing=missing)
    shares = order.label_shares()
    loss = RouteLoss(ROUTES, CLASSES, shares, CPU, build_losses(config, missing, order, TASKS))
    batch = labels[:9][:, tasks]
    targets = torch.from_numpy(fill_missing(batch, choose_fills(missing, TASKS, 0.0)[tasks])).long()
    size = sum(CLASSES[task] for task in tasks)
    generator = torch.Generator().manual_seed(route)
    logits = torch.randn(9, size, dtype=torch.float64, generator=generator).mul(2).requires_grad_()
    costs = build_references(config, missing, TASKS, labels)
    found = loss(route, logits, targets)
    expected = loss_of_route(ROUTES, CLASSES, shares.tolist(), route, logits, torch.from_numpy(batch).long(), costs)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    gradients = [torch.autograd.grad(value, logits)[0] for value in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_loss_is_linear_in_the_samples(name: str) -> None:
    config, missing = CONFIGS[name]
    labels, tasks = draw_labels(), ROUTES.tasks_of[0]
    order = build_order(labels, ROUTES, missing=missing)
    loss = RouteLoss(ROUTES, CLASSES, order.label_shares(), CPU, build_losses(config, missing, order, TASKS))
    targets = torch.from_numpy(fill_missing(labels[:12][:, tasks], choose_fills(missing, TASKS, 0.0)[tasks])).long()
    logits = torch.randn(12, sum(CLASSES[task] for task in tasks), dtype=torch.float64)
    parts = [loss(0, logits[start : start + 3], targets[start : start + 3]) for start in range(0, 12, 3)]
    torch.testing.assert_close(torch.stack(parts).mean(), loss(0, logits, targets), rtol=1e-12, atol=1e-14)


def test_the_default_is_one_call_of_cross_entropy_to_the_last_bit() -> None:
    labels, alone = draw_labels(missing=0.0), Routes.one_per_task(NAMES)
    losses = build_losses(LossConfig(), "ignore", build_order(labels, alone), TASKS)
    logits, targets = torch.randn(7, 5), torch.from_numpy(labels[:7, 1:2]).long()
    found = RouteLoss(alone, CLASSES, np.ones(6), CPU, losses)(1, logits, targets)
    assert torch.equal(found, functional.cross_entropy(logits, targets[:, 0]))


def test_losses_of_torch_are_special_cases() -> None:
    logits, targets = torch.randn(30, 4, dtype=torch.float64), torch.randint(0, 4, (30,))
    names = Routes.one_per_task(["t"])

    def ours(loss: TaskLoss) -> torch.Tensor:
        return RouteLoss(names, [4], np.ones(1), CPU, [loss])(0, logits, targets[:, None])

    weights = torch.rand(4, dtype=torch.float64) + 0.5
    weighted = functional.cross_entropy(logits, targets, weight=weights, reduction="none").mean()
    torch.testing.assert_close(ours(TaskLoss(class_weights=weights.numpy())), weighted)
    smoothed = functional.cross_entropy(logits, targets, label_smoothing=0.3)
    torch.testing.assert_close(ours(TaskLoss(smoothing=0.3)), smoothed)
    plain = functional.cross_entropy(logits, targets)
    torch.testing.assert_close(ours(TaskLoss(cost=Focal(0.0))), plain)
    adjusted = functional.cross_entropy(logits + weights.log(), targets)
    torch.testing.assert_close(ours(TaskLoss(adjustment=weights.log().numpy())), adjusted)
    binary = torch.randn(9, 2, dtype=torch.float64)
    torch.testing.assert_close(Asymmetric(0.0, 0.0, 0.0)(binary), CrossEntropy()(binary))
    torch.testing.assert_close(Asymmetric(2.0, 2.0, 0.0)(binary), Focal(2.0)(binary))


@pytest.mark.parametrize(
    "cost", [CrossEntropy(), Focal(2.0), Focal(0.3), Asymmetric(1, 4, 0.05), Asymmetric(0.5, 0.5, 0.0)]
)
@pytest.mark.parametrize("size", [0.0, 30.0, 300.0])
def test_sure_answers_have_finite_costs_and_gradients(cost: Cost, size: float) -> None:
    logits = torch.tensor([[size, -size], [-size, size]], requires_grad=True)
    costs = cost(logits)
    costs.sum().backward()
    assert logits.grad is not None
    assert costs.isfinite().all()
    assert logits.grad.isfinite().all()
    assert (costs >= 0).all()


@pytest.mark.parametrize("balance", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("scheme", ["inverse", "sqrt", "effective", {"pos_*": {"b": 30.0}, "*_a": "sqrt"}])
def test_the_mean_weight_of_the_draws_is_one(scheme: Any, balance: float) -> None:
    labels, alone = draw_labels(missing=0.2), Routes.one_per_task(NAMES)
    order = build_order(labels, alone, balance)
    for task, loss in enumerate(build_losses(LossConfig(class_weight=scheme), "ignore", order, TASKS)):
        counts, shares = order.class_shares(task)
        weights = np.ones(CLASSES[task]) if loss.class_weights is None else loss.class_weights
        assert (weights * shares).sum() == pytest.approx(1)
        if balance == 0:
            assert weights[labels[labels[:, task] >= 0, task]].mean() == pytest.approx(1)
        if scheme == "inverse":
            np.testing.assert_allclose(weights * counts, (weights * counts)[0])


# one task of three classes; an image shows one of four things, and the classes are unequal among those that show it
FREQUENCIES = np.array([[60, 3, 1], [30, 20, 2], [8, 9, 6], [40, 4, 1]])
THINGS = np.repeat(np.arange(4), FREQUENCIES.sum(axis=1))
KINDS = np.concatenate([np.repeat(np.arange(3), row) for row in FREQUENCIES])


def train_to_the_end(loss: RouteLoss, labels: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Returns the logits per thing that minimise the mean loss over draws, where each sample has a share of them."""
    logits = torch.zeros(4, 3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [logits], max_iter=500, tolerance_grad=1e-11, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )
    targets = torch.from_numpy(labels).long()[:, None]

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        samples = [loss(0, logits[THINGS[i]][None], targets[i : i + 1]) * share for i, share in unique_samples(drawn)]
        total = torch.stack(samples).sum()
        total.backward()
        return total

    optimizer.step(closure)
    return np.asarray(logits.detach().numpy())


def unique_samples(drawn: np.ndarray) -> list[tuple[int, float]]:
    """Returns a sample for each pair of thing and class, with the share of the draws of all of them."""
    pairs: dict[tuple[int, int], tuple[int, float]] = {}
    for i, pair in enumerate(zip(THINGS.tolist(), KINDS.tolist(), strict=True)):
        first, share = pairs.get(pair, (i, 0.0))
        pairs[pair] = (first, share + float(drawn[i]))
    return list(pairs.values())


@pytest.mark.parametrize(
    ("config", "balance"),
    [
        (LossConfig(), 0.0),
        (LossConfig(), 1.0),
        (LossConfig(), 0.4),
        (LossConfig(class_weight="inverse"), 0.0),
        (LossConfig(class_weight="effective", beta=0.9), 0.5),
        (LossConfig(class_weight={"t": {"b": 5.0, "c": 30.0}}), 0.0),
        (LossConfig(name="logit_adjusted"), 0.0),
        (LossConfig(name="logit_adjusted", tau=0.5), 0.0),
        (LossConfig(name="logit_adjusted", class_weight="sqrt", tau=2.0), 0.7),
    ],
)
def test_prior_offsets_give_the_probabilities_of_the_training_split(config: LossConfig, balance: float) -> None:
    """A network that can learn anything, trained to the end: its corrected probabilities are the frequencies among its images."""
    task, alone = Task(name="t", classes=("a", "b", "c")), Routes.one_per_task(["t"])
    order = RouteOrder(0, 8, Labels.of_matrix(KINDS[:, None]), alone, balance)
    (loss,) = build_losses(config, "ignore", order, [task])
    counts, shares = order.class_shares(0)
    drawn = (shares / counts)[KINDS]
    logits = train_to_the_end(RouteLoss(alone, [3], np.ones(1), CPU, [loss]), KINDS, drawn)
    corrected = logits + (0.0 if loss.prior_offsets is None else loss.prior_offsets)
    probabilities = np.exp(corrected) / np.exp(corrected).sum(axis=1, keepdims=True)
    expected = FREQUENCIES / FREQUENCIES.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(probabilities, expected, atol=1e-5)
    assert (loss.prior_offsets is None) == (config == LossConfig() and balance == 0)
    if config.name == "logit_adjusted" and config.tau == 1:  # the best answers for balanced accuracy
        assert logits.argmax(axis=1).tolist() == (expected / (counts / counts.sum())).argmax(axis=1).tolist()


def test_a_class_without_samples_leaves_all_numbers_finite() -> None:
    labels, alone = np.array([[0], [0], [2]], dtype=np.int8), Routes.one_per_task(["t"])
    order, task = build_order(labels, alone), Task(name="t", classes=("a", "b", "c", "d"))
    for scheme in ("none", "inverse", "sqrt", "effective"):
        config = LossConfig(name="logit_adjusted", class_weight=scheme)
        (loss,) = build_losses(config, "ignore", order, [task])
        for array in (loss.adjustment, loss.prior_offsets):
            assert array is not None
            assert np.isfinite(array).all()


def test_tasks_without_weights_are_not_counted() -> None:
    def shares_of(task: int) -> ClassShares:
        assert task in (0, 3, 5)
        return ClassShares(np.array([3, 1]), np.array([0.75, 0.25]))

    config = LossConfig(class_weight={"pos_*": "inverse"}, name={"five_*": "focal"})
    assert [loss.class_weights is not None for loss in build_task_losses(config, TASKS, shares_of)] == [
        name.startswith("pos") for name in NAMES
    ]


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"name": {"pos_x*": "focal"}}, r"`loss\.name` should match names of tasks\. `pos_x\*` matches none"),
        ({"name": "asymmetric"}, r"`loss\.name` asymmetric is for tasks with two classes.*3 tasks have more: five_a"),
        ({"class_weight": {"thre": "sqrt"}}, r"`loss\.class_weight` should match.*Did you mean `three`\?"),
        (
            {"class_weight": {"three": {"A": 2.0}}},
            r"`loss\.class_weight` should name classes.*`three` has no class `A`, but a, b, c",
        ),
        ({"task_weight": {"six": 2.0}}, r"`loss\.task_weight` should match"),
    ],
)
def test_what_does_not_fit_the_tasks_is_refused(sections: Mapping[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_losses(LossConfig(**sections), TASKS)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"label_smoothing": 1.0}, r"`loss\.label_smoothing` should be at least 0 and below 1\. Got 1\.0"),
        ({"label_smoothing": -0.1}, "label_smoothing"),
        ({"margin": 1.0}, "margin"),
        ({"beta": 1.0}, "beta"),
        ({"gamma": -1.0}, r"`loss\.gamma` should be at least 0"),
        ({"tau": math.inf}, "tau"),
        (
            {"task_weight": {"a": 0.0}},
            r"`loss\.task_weight\.a` should be a positive finite number\. Got 0\.0\..*`data\.tasks`",
        ),
        ({"task_weight": {"a": math.nan}}, "positive finite"),
        ({"class_weight": {"a": {"yes": -1.0}}}, r"`loss\.class_weight\.a\.yes` should be a positive finite number"),
        ({"class_weight": {"a": {"yes": math.inf}}}, "positive finite"),
    ],
)
def test_wrong_numbers_are_refused(sections: Mapping[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        LossConfig(**sections)
