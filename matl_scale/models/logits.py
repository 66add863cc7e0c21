"""A route's logits, split by task: tasks with as many classes are handled together, without a loop over tasks."""

from collections.abc import Hashable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

from matl_scale.routes import Routes


class TaskLogits(NamedTuple):
    """The logits of some tasks of one route that have equally many classes."""

    task_ids: torch.Tensor  # the tasks, shape `(num_tasks,)`, on the device of the logits
    positions: torch.Tensor  # their indices among the tasks of the route, same shape
    logits: torch.Tensor  # shape `(batch, num_tasks, num_classes)`; with one class, differences


class LogitSplitter:
    """Splits the logits of routes by task. `num_classes` are those of each task, in task order; tasks of different `kinds`, if
    given, are kept apart."""

    def __init__(
        self,
        routes: Routes,
        num_classes: Sequence[int],
        device: torch.device | str = "cpu",
        kinds: Sequence[Hashable] | None = None,
    ) -> None:
        self.routes, self.num_classes, self.device = routes, list(num_classes), device
        self.kinds = [None] * len(self.num_classes) if kinds is None else list(kinds)
        self._groups: dict[int, list[tuple[int, torch.Tensor, torch.Tensor, torch.Tensor | None]]] = {}

    def split(self, route_id: int, logits: torch.Tensor) -> Iterator[TaskLogits]:
        """Yields the tasks of a route from its logits, by number of classes and kind.

        Args:
            route_id: The route.
            logits: Shape `(batch, num_classes of all its tasks)`, or, where all of these are binary, the differences of their
                classes, shape `(batch, num_tasks)`.
        """
        tasks = self.routes.tasks_of[route_id]
        if route_id not in self._groups:
            self._groups[route_id] = self._group(tasks)
        are_differences = logits.shape[1] == len(tasks)
        for num_classes, task_ids, positions, columns in self._groups[route_id]:
            chosen = logits
            if columns is not None:
                chosen = logits.index_select(1, positions if are_differences else columns)
            shape = (len(logits), len(task_ids), 1 if are_differences else num_classes)
            yield TaskLogits(task_ids, positions, chosen.view(shape))

    def tasks_of_parts(self, route_id: int) -> list[list[int]]:
        """Returns the tasks of each part that `split` yields for a route."""
        tasks = self.routes.tasks_of[route_id]
        return [[tasks[i] for i in positions] for _, positions in self._positions(tasks)]

    def _positions(self, tasks: Sequence[int]) -> list[tuple[int, list[int]]]:
        """Returns the parts of a route with some tasks: a number of classes, and indices among these tasks."""
        parts: dict[tuple[int, Hashable], list[int]] = {}
        for position, task in enumerate(tasks):
            parts.setdefault((self.num_classes[task], self.kinds[task]), []).append(position)
        return [(key[0], parts[key]) for key in sorted(parts, key=lambda key: key[0])]

    def _group(self, tasks: Sequence[int]) -> list[tuple[int, torch.Tensor, torch.Tensor, torch.Tensor | None]]:
        counts = np.array([self.num_classes[task] for task in tasks])
        starts = np.cumsum(counts) - counts
        groups = []
        for count, found in self._positions(tasks):
            positions = np.array(found)
            columns = (starts[positions][:, None] + np.arange(count)).flatten()
            task_ids, at = (
                torch.from_numpy(array).to(self.device) for array in (np.array(tasks)[positions], positions)
            )
            alone = len(positions) == len(tasks)
            groups.append((count, task_ids, at, None if alone else torch.from_numpy(columns).to(self.device)))
        return groups


def find_columns(tasks: Sequence[int], num_classes: Sequence[int], task_id: int) -> slice:
    """Returns which columns belong to a task where the classes of `tasks` follow each other, task by task; `num_classes` are
    those of every task."""
    start = sum(num_classes[task] for task in tasks[: tasks.index(task_id)])
    return slice(start, start + num_classes[task_id])
