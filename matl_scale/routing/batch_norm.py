"""Batch norm whose running statistics belong to tasks: each task feeds it other inputs, so one running mean fits none.

Affine weights stay shared between tasks; only the running mean and variance have a row per task, over the units that the
task keeps. A row begins as the plain average of its first batches, 1 / momentum of them: among hundreds of tasks each is
seen seldom, and after n batches a moving average would still consist to (1 − momentum)^n of its initial values.
"""

from typing import Literal

import torch
from torch import nn
from torch.nn import functional

from matl_scale.routing.units import places_of

Statistics = Literal["task", "shared"]


class TaskBatchNorm2d(nn.Module):
    """`nn.BatchNorm2d` whose running statistics have a row per task.

    Args:
        norm: The batch norm to replace; weights and statistics are taken over, the latter by every task.
        kept: The channels that each task keeps, from `kept_places`, shape `(num_tasks, num_kept)`.
        statistics: `task` for a row per task; `shared` for one row, to compare with: a task updates its units there.

    Attributes:
        running: Means and variances, shape `(num_tasks, 2, num_kept)`, or `(1, 2, num_channels)` if shared.
        num_updates: Of each row, shape `(num_tasks, 1)`, or of each channel if shared, shape `(1, num_channels)`.
    """

    running: torch.Tensor
    num_updates: torch.Tensor
    kept: torch.Tensor

    def __init__(self, norm: nn.BatchNorm2d, kept: torch.Tensor, statistics: Statistics = "task") -> None:
        super().__init__()
        assert norm.running_mean is not None
        assert norm.running_var is not None
        assert norm.momentum is not None
        self.num_features, self.eps, self.momentum = norm.num_features, norm.eps, norm.momentum
        self.statistics: Statistics = statistics
        self.weight, self.bias = norm.weight, norm.bias
        self.register_buffer("kept", kept, persistent=False)
        rows = kept.long() if statistics == "task" else torch.arange(self.num_features)[None]
        self.register_buffer("running", torch.stack([norm.running_mean[rows], norm.running_var[rows]], dim=1))
        counts = (len(rows), 1) if statistics == "task" else rows.shape
        self.register_buffer("num_updates", torch.zeros(counts, dtype=norm.running_mean.dtype))

    def forward(self, x: torch.Tensor, task: torch.Tensor) -> torch.Tensor:
        """Normalises all channels; in training mode with the batch's statistics, which also update the running ones.

        Args:
            x: Shape `(batch, num_channels, height, width)`.
            task: The active task, integers of shape `(1,)`, or in evaluation mode also `(batch,)`.
        """
        if len(task) > 1:
            return self._forward_mixed(x, task)
        places = places_of(self.kept, task)
        if self.training:
            y, statistics = self._normalise_batch(x, self.weight, self.bias)
            self._update(task, statistics.index_select(1, places))
            return y
        # channels that the task does not keep are switched off by the router behind this norm
        mean, var = torch.zeros_like(self.bias), torch.ones_like(self.bias)
        kept_mean, kept_var = self.read(task)
        mean, var = mean.index_copy(0, places, kept_mean), var.index_copy(0, places, kept_var)
        return functional.batch_norm(x, mean, var, self.weight, self.bias, False, 0.0, self.eps)

    def forward_kept(
        self, x: torch.Tensor, task: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor
    ) -> torch.Tensor:
        """Does the same for the active task's channels alone.

        Args:
            x: Shape `(batch, num_kept, height, width)`.
            task: The active task, shape `(1,)`.
            weight: The affine weight of its channels, shape `(num_kept,)`.
            bias: Likewise.
        """
        if not self.training:
            return functional.batch_norm(x, *self.read(task), weight, bias, False, 0.0, self.eps)
        y, statistics = self._normalise_batch(x, weight, bias)
        self._update(task, statistics)
        return y

    def read(self, task: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the running mean and variance of the units that a task keeps, each `(num_kept,)`."""
        row = self.running.index_select(*self._place(task))[0]
        return row[0], row[1]

    def _place(self, task: torch.Tensor) -> tuple[int, torch.Tensor]:
        """Returns where a task's statistics are: along which dimension, at which places."""
        return (0, task) if self.statistics == "task" else (-1, places_of(self.kept, task))

    def _normalise_batch(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the normalised batch, and its means and variances, shape `(2, num_channels)`."""
        statistics = bias.new_zeros(2, len(bias))
        # with momentum 1 the "running" statistics come out as this batch's
        y = functional.batch_norm(x, statistics[0], statistics[1], weight, bias, True, 1.0, self.eps)
        return y, statistics

    @torch.no_grad()
    def _update(self, task: torch.Tensor, statistics: torch.Tensor) -> None:
        # indexing with a tensor keeps one compiled graph for all tasks
        dim, index = self._place(task)
        updates = self.num_updates.index_select(dim, index) + 1
        self.num_updates.index_copy_(dim, index, updates)
        weight = updates.reciprocal().clamp_(min=self.momentum)
        running = self.running.index_select(dim, index)
        self.running.index_copy_(dim, index, running.lerp_(statistics[None], weight))

    def _forward_mixed(self, x: torch.Tensor, task: torch.Tensor) -> torch.Tensor:
        if self.training:
            raise RuntimeError("A mixed-task batch cannot train a batch norm: its statistics belong to one task.")
        mean, var = self.running[:, 0], self.running[:, 1]
        if self.statistics == "task":
            places = self.kept.index_select(0, task).long()
            mean = torch.zeros_like(self.bias).repeat(len(x), 1).scatter(1, places, mean.index_select(0, task))
            var = torch.ones_like(self.bias).repeat(len(x), 1).scatter(1, places, var.index_select(0, task))
        scale = self.weight * (var + self.eps).rsqrt()
        shift = self.bias - mean * scale
        y = x * scale[:, :, None, None] + shift[:, :, None, None]
        return y.to(x.dtype)

    def row(self, index: int) -> list[torch.Tensor]:
        """Returns flat views of what belongs to one row: means and variances, number of updates."""
        return [self.running[index].view(-1), self.num_updates[index]]

    def row_of(self, task_id: int) -> int:
        """Returns the row of the running statistics that a task uses."""
        return task_id if self.statistics == "task" else 0

    def extra_repr(self) -> str:
        return f"{self.num_features}, statistics={self.statistics}, eps={self.eps}, momentum={self.momentum}"


def task_norms(model: nn.Module) -> list[TaskBatchNorm2d]:
    """Returns the per-task norms of a model in a fixed order."""
    return [module for module in model.modules() if isinstance(module, TaskBatchNorm2d)]
