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
    """`nn.BatchNorm2d` with running statistics of shape `(num_tasks, num_kept)`, or `(1, num_channels)` if shared.

    Args:
        norm: The batch norm to replace; weights and statistics are taken over, the latter by every task.
        kept: The channels that each task keeps, from `kept_places`, shape `(num_tasks, num_kept)`.
        statistics: `task` for a row per task; `shared` for one row, to compare with: a task updates its units there.
    """

    running_mean: torch.Tensor
    running_var: torch.Tensor
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
        self.register_buffer("running_mean", norm.running_mean[rows])
        self.register_buffer("running_var", norm.running_var[rows])
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
        # channels that the task does not keep are switched off by the router behind this norm
        mean, var = torch.zeros_like(self.bias), torch.ones_like(self.bias)
        if self.training:
            y = self._normalise(x, mean, var, self.weight, self.bias)
            self._update(task, mean.index_select(0, places), var.index_select(0, places))
            return y
        kept_mean, kept_var = self.read(task)
        mean, var = mean.index_copy(0, places, kept_mean), var.index_copy(0, places, kept_var)
        return self._normalise(x, mean, var, self.weight, self.bias)

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
            return self._normalise(x, *self.read(task), weight, bias)
        mean, var = torch.zeros_like(bias), torch.ones_like(bias)
        y = self._normalise(x, mean, var, weight, bias)
        self._update(task, mean, var)
        return y

    def read(self, task: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the running mean and variance of the units that a task keeps, each `(num_kept,)`."""
        if self.statistics == "task":
            return self.running_mean.index_select(0, task)[0], self.running_var.index_select(0, task)[0]
        places = places_of(self.kept, task)
        return self.running_mean[0].index_select(0, places), self.running_var[0].index_select(0, places)

    def _normalise(
        self, x: torch.Tensor, mean: torch.Tensor, var: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor
    ) -> torch.Tensor:
        # with momentum 1 the "running" statistics come out as this batch's
        momentum = 1.0 if self.training else 0.0
        return functional.batch_norm(x, mean, var, weight, bias, self.training, momentum, self.eps)

    @torch.no_grad()
    def _update(self, task: torch.Tensor, mean: torch.Tensor, var: torch.Tensor) -> None:
        # indexing with a tensor keeps one compiled graph for all tasks
        dim, index = (0, task) if self.statistics == "task" else (1, places_of(self.kept, task))
        num_updates = self.num_updates.index_select(dim, index)
        weight = (1 / (num_updates + 1)).clamp(min=self.momentum)
        for running, value in ((self.running_mean, mean), (self.running_var, var)):
            running.index_copy_(dim, index, torch.lerp(running.index_select(dim, index), value[None], weight))
        self.num_updates.index_copy_(dim, index, num_updates + 1)

    def _forward_mixed(self, x: torch.Tensor, task: torch.Tensor) -> torch.Tensor:
        if self.training:
            raise RuntimeError("A mixed-task batch cannot train a batch norm: its statistics belong to one task.")
        places = self.kept.index_select(0, task).long()
        mean, var = self.running_mean, self.running_var
        if self.statistics == "task":
            mean = torch.zeros_like(self.bias).repeat(len(x), 1).scatter(1, places, mean.index_select(0, task))
            var = torch.ones_like(self.bias).repeat(len(x), 1).scatter(1, places, var.index_select(0, task))
        scale = self.weight * (var + self.eps).rsqrt()
        shift = self.bias - mean * scale
        y = x * scale[:, :, None, None] + shift[:, :, None, None]
        return y.to(x.dtype)

    def row(self, index: int) -> list[torch.Tensor]:
        """Returns views of everything that belongs to one row: mean, variance, number of updates."""
        return [buffer[index] for buffer in (self.running_mean, self.running_var, self.num_updates)]

    def row_of(self, task_id: int) -> int:
        """Returns the row of the running statistics that a task uses."""
        return task_id if self.statistics == "task" else 0

    def extra_repr(self) -> str:
        return f"{self.num_features}, statistics={self.statistics}, eps={self.eps}, momentum={self.momentum}"


def task_norms(model: nn.Module) -> list[TaskBatchNorm2d]:
    """Returns the per-task norms of a model in a fixed order."""
    return [module for module in model.modules() if isinstance(module, TaskBatchNorm2d)]
