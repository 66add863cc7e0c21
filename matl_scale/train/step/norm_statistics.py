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
        self._sizes = [value.numel() for value in self._rows(0)]
        self._before: dict[int, torch.Tensor] = {}
        self.changes: dict[int, torch.Tensor] = {}

    @property
    def num_values(self) -> int:
        return sum(self._sizes)

    def row_of(self, task_id: int) -> int:
        return self.norms[0].row_of(task_id) if self.norms else task_id

    def begin_slot(self, task_id: int) -> None:
        """Remembers the task's statistics before its forward pass."""
        if self.norms:
            self._before[task_id] = self._gather(self.row_of(task_id))

    def end_slot(self, task_id: int, count: bool) -> None:
        """Takes the change out of the model again, and adds it to the step's if it counts."""
        if not self.norms:
            return
        row, before = self.row_of(task_id), self._before.pop(task_id)
        if count:
            change = self._gather(row) - before
            self.changes[row] = self.changes[row] + change if row in self.changes else change
        self._scatter(row, before)

    def add(self, row: int, change: torch.Tensor, runs: int) -> None:
        """Adds the mean of a step's changes.

        Args:
            row: Of the running statistics.
            change: Their sum over the slots that changed the row.
            runs: The number of these slots.
        """
        mean_change = change / runs if self.norms[0].statistics == "task" else self._mean_by_unit(change)
        self._scatter(row, self._gather(row) + mean_change)

    def _mean_by_unit(self, change: torch.Tensor) -> torch.Tensor:
        """Divides the changes of shared statistics, where a slot changes only its task's units, by the updates of each."""
        parts = iter(change.split(self._sizes))
        means = []
        for running, updates in zip(parts, parts, strict=True):
            runs = updates.clamp(min=1)
            means += [(running.view(2, -1) / runs).flatten(), updates / runs]
        return torch.cat(means)

    def _rows(self, row: int) -> list[torch.Tensor]:
        return [value for norm in self.norms for value in norm.row(row)]

    def _gather(self, row: int) -> torch.Tensor:
        return torch.cat(self._rows(row))

    def _scatter(self, row: int, values: torch.Tensor) -> None:
        torch._foreach_copy_(self._rows(row), values.split(self._sizes))
