"""Batch norm whose running statistics belong to tasks: each task feeds it other inputs, so one running mean fits none.

Affine weights stay shared between tasks; only the running mean and variance have a row per task. A row begins as the
plain average of its first batches, 1 / momentum of them: among hundreds of tasks each is seen seldom, and after n batches
a moving average would still consist to (1 − momentum)^n of its initial values.
"""

from typing import Literal

import torch
from torch import nn
from torch.nn import functional

Statistics = Literal["task", "shared"]


class TaskBatchNorm2d(nn.Module):
    """`nn.BatchNorm2d` with running statistics of shape `(num_rows, num_channels)`.

    Args:
        norm: The batch norm to replace; weights and statistics are taken over, the latter by every task.
        num_tasks: T.
        statistics: `task` for a row per task; `shared` for one row that all tasks update, to compare with.
    """

    running_mean: torch.Tensor
    running_var: torch.Tensor
    num_updates: torch.Tensor

    def __init__(self, norm: nn.BatchNorm2d, num_tasks: int, statistics: Statistics = "task") -> None:
        super().__init__()
        assert norm.running_mean is not None
        assert norm.running_var is not None
        assert norm.momentum is not None
        self.num_features, self.eps, self.momentum = norm.num_features, norm.eps, norm.momentum
        self.weight, self.bias = norm.weight, norm.bias
        num_rows = num_tasks if statistics == "task" else 1
        self.register_buffer("running_mean", norm.running_mean.repeat(num_rows, 1))
        self.register_buffer("running_var", norm.running_var.repeat(num_rows, 1))
        self.register_buffer("num_updates", torch.zeros(num_rows, 1, dtype=norm.running_mean.dtype))

    def forward(self, x: torch.Tensor, task: torch.Tensor) -> torch.Tensor:
        """Normalises `x`; in training mode with the batch's statistics, which also update the active task's row.

        Args:
            x: Shape `(batch, num_channels, height, width)`.
            task: The active task, integers of shape `(1,)`, or in evaluation mode also `(batch,)`.
        """
        row = task if len(self.running_mean) > 1 else torch.zeros_like(task)
        if len(row) > 1:
            return self._forward_mixed(x, row)
        if not self.training:
            mean, var = self.running_mean.index_select(0, row)[0], self.running_var.index_select(0, row)[0]
            return functional.batch_norm(x, mean, var, self.weight, self.bias, False, 0.0, self.eps)
        # with momentum 1 the "running" statistics come out as this batch's
        mean, var = torch.zeros_like(self.running_mean[0]), torch.ones_like(self.running_var[0])
        y = functional.batch_norm(x, mean, var, self.weight, self.bias, True, 1.0, self.eps)
        self._update(row, mean, var)
        return y

    @torch.no_grad()
    def _update(self, row: torch.Tensor, mean: torch.Tensor, var: torch.Tensor) -> None:
        # indexing with a tensor keeps one compiled graph for all tasks
        num_updates = self.num_updates.index_select(0, row)
        weight = (1 / (num_updates + 1)).clamp(min=self.momentum)
        for running, value in ((self.running_mean, mean), (self.running_var, var)):
            running.index_copy_(0, row, torch.lerp(running.index_select(0, row), value[None], weight))
        self.num_updates.index_copy_(0, row, num_updates + 1)

    def _forward_mixed(self, x: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
        if self.training:
            raise RuntimeError("A mixed-task batch cannot train a batch norm: its statistics belong to one task.")
        scale = self.weight * (self.running_var.index_select(0, row) + self.eps).rsqrt()
        shift = self.bias - self.running_mean.index_select(0, row) * scale
        y = x * scale[:, :, None, None] + shift[:, :, None, None]
        return y.to(x.dtype)

    def row(self, index: int) -> list[torch.Tensor]:
        """Returns views of everything that belongs to one row: mean, variance, number of updates."""
        return [buffer[index] for buffer in (self.running_mean, self.running_var, self.num_updates)]

    def row_of(self, task_id: int) -> int:
        """Returns the row of the running statistics that a task uses."""
        return task_id if len(self.running_mean) > 1 else 0

    def extra_repr(self) -> str:
        return f"{self.num_features}, num_rows={len(self.running_mean)}, eps={self.eps}, momentum={self.momentum}"


def task_norms(model: nn.Module) -> list[TaskBatchNorm2d]:
    """Returns the per-task norms of a model in a fixed order."""
    return [module for module in model.modules() if isinstance(module, TaskBatchNorm2d)]
