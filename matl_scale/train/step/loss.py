"""The loss of a slot: all labels that its images carry for the tasks of the active route, in one expression.

Per task it is Σ over labelled samples of the cross-entropy ÷ (images × the share of the route's samples that carry the task's
label), and the mean of that over the tasks. It is linear in the samples: the mean over slots does not depend on which slot a
label lies in, so ranks need not tell each other how many labels they have. With one task per route it is the plain mean.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional

from matl_scale.data.shards.layout import MISSING
from matl_scale.models.logits import LogitSplitter
from matl_scale.routes import Routes


class RouteLoss:
    """Computes the loss of routes.

    Args:
        routes: Which tasks each route serves.
        num_classes: The number of classes of each task.
        shares: Of each task, the share of its route's training samples that carry its label; 0 for a task that is not trained.
            Shape `(num_tasks,)`.
    """

    def __init__(self, routes: Routes, num_classes: Sequence[int], shares: np.ndarray, device: torch.device) -> None:
        self.splitter = LogitSplitter(routes, num_classes, device)
        self._weights: list[torch.Tensor | None] = []  # of each task of a route; None for a single one
        for tasks in routes.tasks_of:
            trained = shares[tasks] > 0
            weights = np.where(trained, 1 / np.where(trained, shares[tasks], 1), 0) / max(trained.sum(), 1)
            self._weights.append(None if len(tasks) == 1 else torch.from_numpy(weights).to(device))

    def __call__(self, route_id: int, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Returns the loss; without any label, 0 that still has a graph.

        Args:
            route_id: The active route.
            logits: Of all its tasks, shape `(batch, num_classes of all tasks)`. Samples with a label come first.
            labels: Of these samples alone, −1 = no label, shape `(num_labelled, num_tasks of the route)`.
        """
        if not len(labels):
            return logits.float().sum() * 0.0
        logits, weights = logits[: len(labels)], self._weights[route_id]
        logits = logits.float() if logits.dtype.itemsize < 4 else logits
        if weights is None:
            return functional.cross_entropy(logits, labels[:, 0])
        total = logits.new_zeros(())
        for part in self.splitter.split(route_id, logits):
            losses = functional.cross_entropy(
                part.logits.flatten(0, 1),
                labels.index_select(1, part.positions).flatten(),
                ignore_index=MISSING,
                reduction="none",
            )
            sums = losses.view(len(labels), -1).sum(dim=0)
            total = total + (sums * weights.index_select(0, part.positions).to(sums.dtype)).sum()
        return total / len(labels)
