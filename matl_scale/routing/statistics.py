"""Batch norm whose running statistics belong to tasks: each task feeds it other inputs, so one running mean fits none.

Affine weights stay shared between tasks; only the running mean and variance have a row per task.
"""

from typing import Literal, cast

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

    def __init__(self, norm: nn.BatchNorm2d, num_tasks: int, statistics: Statistics = "task") -> None:
        super().__init__()
        assert norm.running_mean is not None and norm.running_var is not None and norm.momentum is not None
        self.num_features, self.eps, self.momentum = norm.num_features, norm.eps, norm.momentum
        self.weight, self.bias = norm.weight, norm.bias
        num_rows = num_tasks if statistics == "task" else 1
        self.register_buffer("running_mean", norm.running_mean.repeat(num_rows, 1))
        self.register_buffer("running_var", norm.running_var.repeat(num_rows, 1))

    def forward(self, x: torch.Tensor, task: torch.Tensor) -> torch.Tensor:
        """Normalises `x`; in training mode with the batch's statistics, which also update the active task's row.

        Args:
            x: Shape `(batch, num_channels, height, width)`.
            task: The active task, integers of shape `(1,)`, or in evaluation mode also `(batch,)`.
        """
        row = task if len(self.running_mean) > 1 else torch.zeros_like(task)
        if len(row) > 1:
            return self._forward_mixed(x, row)
        # copies, written back: indexing with a tensor keeps one compiled graph for all tasks
        mean, var = self.running_mean.index_select(0, row)[0], self.running_var.index_select(0, row)[0]
        y = functional.batch_norm(x, mean, var, self.weight, self.bias, self.training, self.momentum, self.eps)
        if self.training:
            self.running_mean.index_copy_(0, row, mean[None])
            self.running_var.index_copy_(0, row, var[None])
        return y

    def _forward_mixed(self, x: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
        if self.training:
            raise RuntimeError("A mixed-task batch cannot train a batch norm: its statistics belong to one task.")
        scale = self.weight * (self.running_var.index_select(0, row) + self.eps).rsqrt()
        shift = self.bias - self.running_mean.index_select(0, row) * scale
        y = x * scale[:, :, None, None] + shift[:, :, None, None]
        return y.to(x.dtype)

    def row_of(self, task_id: int) -> int:
        """Returns the row of the running statistics that a task uses."""
        return task_id if len(self.running_mean) > 1 else 0

    def extra_repr(self) -> str:
        return f"{self.num_features}, num_rows={len(self.running_mean)}, eps={self.eps}, momentum={self.momentum}"


def task_norms(model: nn.Module) -> list[TaskBatchNorm2d]:
    """Returns the per-task norms of a model in a fixed order."""
    return [cast(TaskBatchNorm2d, module) for module in model.modules() if isinstance(module, TaskBatchNorm2d)]
