"""The loss of mixed images, against one pair and one task at a time."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from matl_scale.data.loading.mixing import partners_of
from matl_scale.routes import Routes
from matl_scale.train.losses.task_loss import TaskLoss
from matl_scale.train.step.loss import RouteLoss

CLASSES = [2, 3, 2]
ROUTES = Routes.build(["one", "two"], [0, 0, 1])
LABELS = {0: [[0, 2], [-1, 1], [1, -1], [1, 0], [0, -1]], 1: [[1], [0], [0], [1], [1]]}


@pytest.mark.parametrize("share", [0.0, 0.3, 0.75, 1.0])
@pytest.mark.parametrize("route", [0, 1])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_pair_counts_as_both_images_in_shares_where_they_have_labels(
    route: int, share: float, weighted: bool
) -> None:
    tasks, shares = ROUTES.tasks_of[route], np.array([0.8, 0.6, 1.0])
    weights = np.array([0.5, 1.5]) if weighted else None
    losses = [TaskLoss(class_weights=weights), TaskLoss(), TaskLoss(class_weights=weights)]
    labels = torch.tensor(LABELS[route])
    logits = torch.randn(6, sum(CLASSES[task] for task in tasks), dtype=torch.float64)  # the last has no label
    found = RouteLoss(ROUTES, CLASSES, shares, torch.device("cpu"), losses).of_mixed(route, logits, labels, share)
    expected, start = 0.0, 0
    for column, task in enumerate(tasks):
        own_logits = logits[:, start : start + CLASSES[task]]
        start += CLASSES[task]
        for i in range(len(labels)):
            for own_share, sample in ((share, i), (1 - share, i - 1)):  # the first is mixed with the last
                if (label := int(labels[sample, column])) != -1:
                    weight = weights[label] if weights is not None and CLASSES[task] == 2 else 1
                    cost = weight * functional.cross_entropy(own_logits[i], torch.tensor(label)).item()
                    expected += own_share * cost / (len(labels) * shares[task] * len(tasks))
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_every_label_weighs_as_much_as_without_mixing() -> None:
    """On images that all look alike, mixing changes nothing, whichever labels are missing."""
    labels = torch.tensor(LABELS[0])
    logits = torch.randn(1, 5, dtype=torch.float64).expand(len(labels), -1)
    loss = RouteLoss(ROUTES, CLASSES, np.array([0.8, 0.6, 1.0]), torch.device("cpu"))
    torch.testing.assert_close(loss.of_mixed(0, logits, labels, 0.3), loss(0, logits, labels), rtol=1e-12, atol=0)
    assert sorted(partners_of(labels).tolist()) == sorted(labels.tolist())
