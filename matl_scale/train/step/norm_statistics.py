"""Norm statistics of a step: slots change them independently, the step applies the mean change."""

import torch

from matl_scale.models.network import RoutedModel
from matl_scale.routing.batch_norm import task_norms


class NormStatistics:
    """Running statistics of a step: each slot starts from the same values, and the step adds the mean change.

    So the result does not depend on whether slots ran one after the other or on different ranks.
    """

    def __init__(self, model: RoutedModel) -> None:
        self.norms = task_norms(model)
        self._sizes = [value.numel() for value in self._tensors(0)]
        self._before: dict[int, torch.Tensor] = {}
        self.changes: dict[int, torch.Tensor] = {}

    @property
    def num_values(self) -> int:
        return sum(self._sizes)

    def stat_row_of(self, task_id: int) -> int:
        """Returns the row of the running statistics that a task uses."""
        return self.norms[0].stat_row_of(task_id) if self.norms else task_id

    def begin_slot(self, task_id: int) -> None:
        """Remembers the task's statistics before its forward pass."""
        if self.norms:
            self._before[task_id] = self._gather(self.stat_row_of(task_id))

    def end_slot(self, task_id: int, count: bool) -> None:
        """Undoes the change that the slot made in the model, and adds it to the step's changes if it counts."""
        if not self.norms:
            return
        stat_row, before = self.stat_row_of(task_id), self._before.pop(task_id)
        if count:
            change = self._gather(stat_row) - before
            self.changes[stat_row] = self.changes[stat_row] + change if stat_row in self.changes else change
        self._scatter(stat_row, before)

    def add(self, stat_row: int, change: torch.Tensor, num_slots: int) -> None:
        """Adds the mean of a step's changes to a row: `change` is their sum over `num_slots` slots, shape `(num_values,)`."""
        mean_change = change / num_slots if self.norms[0].statistics == "task" else self._mean_by_unit(change)
        self._scatter(stat_row, self._gather(stat_row) + mean_change)

    def _mean_by_unit(self, change: torch.Tensor) -> torch.Tensor:
        """Divides the changes of shared statistics by the number of updates of each unit: a slot changes only its task's."""
        parts = iter(change.split(self._sizes))
        means = []
        for running, updates in zip(parts, parts, strict=True):
            counts = updates.clamp(min=1)
            means += [(running.view(2, -1) / counts).flatten(), updates / counts]
        return torch.cat(means)

    def _tensors(self, stat_row: int) -> list[torch.Tensor]:
        return [value for norm in self.norms for value in norm.stat_row(stat_row)]

    def _gather(self, stat_row: int) -> torch.Tensor:
        return torch.cat(self._tensors(stat_row))

    def _scatter(self, stat_row: int, values: torch.Tensor) -> None:
        torch._foreach_copy_(self._tensors(stat_row), values.split(self._sizes))
