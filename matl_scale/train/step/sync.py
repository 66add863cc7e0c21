"""What ranks exchange by hand after the backward passes of a step: one flat buffer, one all-reduce.

The buffer holds the gradients of the heads that some slot of the step ran, the changes of these tasks' norm statistics,
per slot its loss, how many labelled samples it had, and how many damaged ones, and whether a rank wants to stop. Its size
depends on the number of slots, never on T. Trunk gradients are DDP's business.

A head's gradient is the mean over the slots that ran it; DDP's mean over ranks would shrink its step as ranks are added.
A head that no slot ran, or none with a labelled sample, ends with `grad is None`, which optimizers leave alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist

from matl_scale.models.network import RoutedModel
from matl_scale.train.step.norm_statistics import NormStatistics


@dataclass(frozen=True, kw_only=True)
class SyncResult:
    """What every rank knows after the exchange.

    Attributes:
        losses: Mean loss of every slot, shape `(num_slots,)`; 0 where nothing was labelled.
        labelled: Labelled samples of every slot, shape `(num_slots,)`.
        damaged: Samples of every slot that were left out because they cannot be read, shape `(num_slots,)`.
        nonfinite: Tasks whose loss, head gradient or norm statistics are not finite.
        stop: Whether some rank was asked to stop.
        num_bytes: Size of the buffer.
    """

    losses: np.ndarray
    labelled: np.ndarray
    damaged: np.ndarray
    nonfinite: list[int]
    stop: bool
    num_bytes: int


class StepSync:
    """Collects what a rank's slots leave behind, exchanges it, and puts the result into the model.

    Args:
        model: With gradients in its parameters.
        world_size: W.
        accumulate: Micro-steps per step.
    """

    def __init__(self, model: RoutedModel, world_size: int, accumulate: int) -> None:
        self.model, self.world_size, self.accumulate = model, world_size, accumulate
        self.statistics = NormStatistics(model)
        self._losses: dict[int, torch.Tensor] = {}
        self._counts: dict[int, tuple[int, int]] = {}
        self._changes: list[tuple[int, torch.Tensor, int]] = []

    def record(self, slot: int, loss: torch.Tensor, labelled: int, damaged: int) -> None:
        """Notes the mean loss of one of this rank's slots, and how many labelled and damaged samples it had."""
        self._losses[slot], self._counts[slot] = loss.detach(), (labelled, damaged)

    def exchange(self, tasks: np.ndarray, stop: bool = False, scaled: bool = False) -> SyncResult:
        """Reduces over ranks: afterwards head gradients are equal everywhere, and `apply_statistics` may follow.

        Args:
            tasks: The task of every slot of the step, shape `(num_slots,)`. Head gradients are expected to come from
                losses divided by `accumulate`.
            stop: Whether this rank was asked to stop.
            scaled: Whether gradients are scaled for fp16: overflow in them is then the scaler's business.
        """
        active = np.unique(tasks).tolist()
        rows = sorted({self.statistics.row_of(task_id) for task_id in active})
        flat = self._pack(active, rows, len(tasks), stop)
        if self.world_size > 1:
            dist.all_reduce(flat)
        return self._unpack(flat, tasks, active, rows, scaled)

    def apply_statistics(self) -> None:
        """Takes the mean changes of the last exchange into the norm statistics."""
        for row, change, runs in self._changes:
            self.statistics.add(row, change, runs)
        self._changes = []

    def _head_parameters(self, active: Sequence[int]) -> list[torch.nn.Parameter]:
        return [parameter for task_id in active for parameter in self.model.heads[task_id].parameters()]

    def _pack(self, active: list[int], rows: list[int], num_slots: int, stop: bool) -> torch.Tensor:
        parameters = self._head_parameters(active)
        slots = parameters[0].new_zeros(3, num_slots)
        for slot, loss in self._losses.items():
            slots[0, slot] = loss
            slots[1, slot], slots[2, slot] = self._counts[slot]
        parts = [slots.flatten(), slots.new_full((1,), float(stop))]
        for parameter in parameters:
            gradient = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
            parts.append(gradient.flatten())
        empty = slots.new_zeros(self.statistics.num_values)
        parts += [self.statistics.changes.get(row, empty) for row in rows]
        self._losses, self._counts = {}, {}
        self.statistics.changes = {}
        return torch.cat(parts)

    def _unpack(
        self, flat: torch.Tensor, tasks: np.ndarray, active: list[int], rows: list[int], scaled: bool
    ) -> SyncResult:
        num_slots, num_numbers = len(tasks), 3 * len(tasks) + 1
        parameters = self._head_parameters(active)
        sizes = [num_numbers] + [parameter.numel() for parameter in parameters]
        sizes += [self.statistics.num_values] * len(rows)
        parts = list(flat.split(sizes))
        gradients, changes = parts[1 : 1 + len(parameters)], parts[1 + len(parameters) :]
        numbers = torch.cat([parts[0], flat.isfinite().all().to(flat.dtype)[None]]).double().cpu().numpy()
        losses, labelled, damaged = numbers[:-2].reshape(3, num_slots)
        nonfinite: list[int] = []
        if not numbers[-1]:
            suspects = [] if scaled else self._tasks_of_gradients(active, gradients)
            nonfinite = self._find_nonfinite(tasks, losses, suspects, dict(zip(rows, changes, strict=True)))
        ran = labelled > 0
        runs = {task_id: int(ran[tasks == task_id].sum()) for task_id in active}
        left = iter(gradients)
        for task_id in active:
            for parameter in self.model.heads[task_id].parameters():
                gradient = next(left).view_as(parameter)
                parameter.grad = gradient * (self.accumulate / runs[task_id]) if runs[task_id] else None
        self._changes = []
        for row, change in zip(rows, changes, strict=True):
            count = sum(runs[task_id] for task_id in active if self.statistics.row_of(task_id) == row)
            if count and self.statistics.norms:
                self._changes.append((row, change, count))
        return SyncResult(
            losses=losses,
            labelled=labelled,
            damaged=damaged,
            nonfinite=nonfinite,
            stop=numbers[-2] > 0,
            num_bytes=flat.numel() * flat.element_size(),
        )

    def _tasks_of_gradients(self, active: list[int], gradients: Sequence[torch.Tensor]) -> list[int]:
        """Returns the tasks with a head gradient that is not finite."""
        left = iter(gradients)
        finite = {
            task_id: all([bool(next(left).isfinite().all()) for _ in self.model.heads[task_id].parameters()])
            for task_id in active
        }
        return [task_id for task_id, is_finite in finite.items() if not is_finite]

    def _find_nonfinite(
        self, tasks: np.ndarray, losses: np.ndarray, suspects: list[int], changes: dict[int, torch.Tensor]
    ) -> list[int]:
        """Returns the tasks by which something that is not finite has come into a step: by loss if any loss shows it."""
        by_loss = np.unique(tasks[~np.isfinite(losses)]).tolist()
        if by_loss or suspects:
            return by_loss or suspects
        bad = {row for row, change in changes.items() if not bool(change.isfinite().all())}
        return [task_id for task_id in np.unique(tasks).tolist() if self.statistics.row_of(task_id) in bad]
