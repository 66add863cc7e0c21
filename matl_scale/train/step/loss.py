"""The loss of a slot: all labels that its images carry for the tasks of the active route, in one expression.

Per task it is Σ over labelled samples of their cost ÷ (images × the share of the route's samples that carry the task's label),
and the mean of that over the tasks. The cost of a sample is what its label costs (see `train/losses`), times constants of its
class and task. So the loss is linear in the samples: the mean over slots does not depend on which slot a label lies in, and
ranks need not tell each other how many labels they have. With one task per route and no weights, it is the plain mean.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional

from matl_scale.data.loading.missing import SOFT
from matl_scale.data.loading.mixing import partners_of
from matl_scale.data.shards.layout import MISSING
from matl_scale.models.logits import LogitSplitter
from matl_scale.routes import Routes
from matl_scale.train.losses.task_loss import TaskLoss


class RouteLoss:
    """Computes the loss of routes.

    Args:
        routes: Which tasks each route serves.
        num_classes: The number of classes of each task.
        shares: Of each task, the share of its route's training samples that carry its label; 0 for a task that is not trained.
            Shape `(num_tasks,)`.
        device: Where logits are.
        losses: The loss of each task; None is cross-entropy.
    """

    def __init__(
        self,
        routes: Routes,
        num_classes: Sequence[int],
        shares: np.ndarray,
        device: torch.device,
        losses: Sequence[TaskLoss] | None = None,
    ) -> None:
        self.losses = [TaskLoss()] * routes.num_tasks if losses is None else list(losses)
        # tasks with the same loss function are computed together, and those with plain cross-entropy by one call
        kinds = [(loss.is_plain, loss.cost, loss.smoothing) for loss in self.losses]
        self.splitter = LogitSplitter(routes, num_classes, device, kinds)
        self.routes, self.device = routes, device
        trained = shares > 0
        num_trained = np.array([max(trained[tasks].sum(), 1) for tasks in routes.tasks_of])[list(routes.route_of)]
        factors = np.array([loss.task_weight for loss in self.losses])
        self._factors = factors * np.where(trained, 1 / np.where(trained, shares, 1), 0) / num_trained
        self._parts: dict[int, list[PartLoss]] = {}

    def __call__(self, route_id: int, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Returns the loss; without any label, 0 that still has a graph.

        Args:
            route_id: The active route.
            logits: Of all its tasks, as `classify_relative` returns them. Samples with a label come first.
            labels: Of these samples alone, −1 = no label, `SOFT` = none but a soft target, shape
                `(num_labelled, num_tasks of the route)`.
        """
        if not len(labels):
            return logits.float().sum() * 0.0
        logits = logits[: len(labels)]
        logits = logits.float() if logits.dtype.itemsize < 4 else logits
        if self._is_plain_mean(route_id):
            return functional.cross_entropy(logits, labels[:, 0].long())
        if route_id not in self._parts:
            self._parts[route_id] = [self._build_part(tasks) for tasks in self.splitter.tasks_of_parts(route_id)]
        total = logits.new_zeros(())
        for part, loss in zip(self.splitter.split(route_id, logits), self._parts[route_id], strict=True):
            own = labels if len(part.positions) == labels.shape[1] else labels.index_select(1, part.positions)
            total = total + loss(part.logits, own)
        return total / len(labels)

    def of_mixed(self, route_id: int, logits: torch.Tensor, labels: torch.Tensor, own_share: float) -> torch.Tensor:
        """Returns the loss of images that are their own by a share, and those before them by the rest (see `mixing`)."""
        loss = self(route_id, logits, labels)
        if own_share == 1:
            return loss
        return torch.lerp(self(route_id, logits, partners_of(labels)), loss, own_share)

    def _is_plain_mean(self, route_id: int) -> bool:
        """Whether the loss of a route is the mean cross-entropy: that of its only task, all of whose samples have a label."""
        tasks = self.routes.tasks_of[route_id]
        loss = self.losses[tasks[0]]
        return len(tasks) == 1 and loss.is_plain and loss.task_weight == 1

    def _build_part(self, tasks: Sequence[int]) -> "PartLoss":
        return PartLoss([self.losses[task] for task in tasks], self._factors[list(tasks)], self.device)


class PartLoss:
    """The summed loss of tasks that have equally many classes and the same loss function.

    Args:
        losses: The loss of each task.
        factors: What the cost of a sample of each task is multiplied by, shape `(num_tasks,)`.
        device: Where logits are.
    """

    def __init__(self, losses: Sequence[TaskLoss], factors: np.ndarray, device: torch.device) -> None:
        def stack(arrays: list[np.ndarray | None], default: float) -> torch.Tensor | None:
            """Returns arrays of the shape `(num_classes,)` as one tensor; None if there is none."""
            found = [array for array in arrays if array is not None]
            if not found:
                return None
            filled = [np.full(len(found[0]), default) if array is None else array for array in arrays]
            return torch.from_numpy(np.stack(filled)).to(device)

        first = losses[0]
        self.cost, self.smoothing, self.is_plain = first.cost, first.smoothing, first.is_plain
        self.factors = torch.from_numpy(factors).to(device)
        self.class_weights = stack([loss.class_weights for loss in losses], 1.0)
        self.adjustments = stack([loss.adjustment for loss in losses], 0.0)
        self.soft_targets = stack([loss.soft_target for loss in losses], 0.0)

    def __call__(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Returns the sum over samples and tasks, a scalar.

        Args:
            logits: Shape `(num_samples, num_tasks, num_classes)`; with one class, how much that of class 1 is above class 0.
            labels: Integers of any type, shape `(num_samples, num_tasks)`, with `MISSING` and `SOFT`.
        """
        sums = self._sum_plain(logits, labels) if self.is_plain else self._sum_costs(logits, labels)
        return (sums * self.factors.to(sums.dtype)).sum()

    def _sum_plain(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Returns the sums over samples, shape `(num_tasks,)`, of the cross-entropy."""
        if logits.shape[2] <= 2:  # the same, several times as fast
            difference = logits[:, :, -1] if logits.shape[2] == 1 else logits[:, :, 1] - logits[:, :, 0]
            signs = labels.to(difference.dtype).mul_(2).sub_(1)
            return -functional.logsigmoid(difference * signs).masked_fill(labels == MISSING, 0.0).sum(dim=0)
        losses = functional.cross_entropy(
            logits.flatten(0, 1), labels.flatten().long(), ignore_index=MISSING, reduction="none"
        )
        return losses.view(len(labels), -1).sum(dim=0)

    def _sum_costs(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Returns the same for any loss function, with weights of classes, adjusted logits, smoothing and soft targets."""
        if logits.shape[2] == 1:
            logits = functional.pad(logits, (1, 0))
        if self.adjustments is not None:
            logits = logits + self.adjustments.to(logits.dtype)
        costs = self.cost(logits)
        if self.smoothing:
            costs = costs.lerp(costs.mean(dim=2, keepdim=True), self.smoothing)
        if self.class_weights is not None:
            costs = costs * self.class_weights.to(costs.dtype)
        found = costs.gather(2, labels.clamp(min=0).long()[:, :, None])[:, :, 0]
        losses = torch.where(labels >= 0, found, 0.0)
        if self.soft_targets is not None:
            expected = (costs * self.soft_targets.to(costs.dtype)).sum(dim=2)
            losses = torch.where(labels == SOFT, expected, losses)
        return losses.sum(dim=0)
