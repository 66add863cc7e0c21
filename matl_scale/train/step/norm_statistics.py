"""Norm statistics of a step: slots change them independently, the step applies the mean change."""

from collections.abc import Sequence

import torch

from matl_scale.models.network import RoutedModel
from matl_scale.routing.batch_norm import RouteBatchNorm2d, route_norms

COMMON = -1  # the row of the statistics that all routes share


class NormStatistics:
    """Running statistics of a step: each slot starts from the same values, and the step adds the mean change.

    So the result does not depend on whether slots ran one after the other or on different ranks. A *row* is what one route has
    in all norms with statistics per route, or, as the row `COMMON`, what all routes have in the other norms.
    """

    def __init__(self, model: RoutedModel) -> None:
        self.norms: dict[bool, list[RouteBatchNorm2d]] = {True: [], False: []}  # by whether their statistics are common
        for norm in route_norms(model):
            self.norms[norm.statistics == "shared"].append(norm)
        self._before: dict[int, torch.Tensor] = {}
        self.changes: dict[int, torch.Tensor] = {}

    def rows_of(self, route_id: int) -> list[int]:
        """Returns the rows that a slot of a route changes."""
        return ([COMMON] if self.norms[True] else []) + ([route_id] if self.norms[False] else [])

    def num_values(self, row: int) -> int:
        return sum(self._sizes(row))

    def begin_slots(self, route_ids: Sequence[int]) -> None:
        """Remembers the statistics of the routes of slots that run together, before their forward pass."""
        for row in self._rows_of_all(route_ids):
            self._before[row] = self._gather(row)

    def end_slots(self, route_ids: Sequence[int], count: bool) -> None:
        """Undoes the changes that these slots made in the model, and adds them to the step's changes if they count."""
        for row in self._rows_of_all(route_ids):
            before = self._before.pop(row)
            if count:
                change = self._gather(row) - before
                self.changes[row] = self.changes[row] + change if row in self.changes else change
            self._scatter(row, before)

    def _rows_of_all(self, route_ids: Sequence[int]) -> list[int]:
        return sorted({row for route_id in route_ids for row in self.rows_of(route_id)})

    def add(self, row: int, change: torch.Tensor, num_slots: int) -> None:
        """Adds the mean of a step's changes to a row: `change` is their sum over `num_slots` slots, shape `(num_values,)`."""
        mean_change = self._mean_by_unit(change) if row == COMMON else change / num_slots
        self._scatter(row, self._gather(row) + mean_change)

    def _mean_by_unit(self, change: torch.Tensor) -> torch.Tensor:
        """Divides the changes of common statistics by the number of updates of each unit: a slot changes only its route's."""
        parts = iter(change.split(self._sizes(COMMON)))
        means = []
        for running, updates in zip(parts, parts, strict=True):
            counts = updates.clamp(min=1)
            means += [(running.view(2, -1) / counts).flatten(), updates / counts]
        return torch.cat(means)

    def _tensors(self, row: int) -> list[torch.Tensor]:
        index = 0 if row == COMMON else row
        return [value for norm in self.norms[row == COMMON] for value in norm.stat_row(index)]

    def _sizes(self, row: int) -> Sequence[int]:
        return [value.numel() for value in self._tensors(row)]

    def _gather(self, row: int) -> torch.Tensor:
        return torch.cat(self._tensors(row))

    def _scatter(self, row: int, values: torch.Tensor) -> None:
        torch._foreach_copy_(self._tensors(row), values.split(self._sizes(row)))
