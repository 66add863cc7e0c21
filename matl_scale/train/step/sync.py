"""What ranks exchange by hand after the backward passes of a step: one flat buffer, one all-reduce.

The buffer holds, per slot, its loss and how many labelled and damaged samples it had; whether a rank wants to stop; the
gradients of the heads that some slot of the step ran; and the changes of these tasks' norm statistics. Its size depends on
the number of slots, never on T. Trunk gradients are reduced by DDP.

A head's gradient is the mean over the slots that ran it with a labelled sample; DDP's mean over ranks would shrink its step as
ranks are added. A head that no slot ran, or none with a labelled sample, ends with `grad is None`, which optimizers leave alone.
"""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist

from matl_scale.models.network import RoutedModel
from matl_scale.train.step.buffer_layout import BufferLayout
from matl_scale.train.step.norm_statistics import NormStatistics

LOSSES, LABELLED, DAMAGED, STOP = "losses", "labelled", "damaged", "stop"


class HeadGradient(NamedTuple):
    """Key of a part of the buffer: the gradient of one parameter of a task's head."""

    task_id: int
    parameter: str


class StatisticsChange(NamedTuple):
    """Key of a part of the buffer: the summed changes of one row of the norm statistics."""

    stat_row: int


@dataclass(frozen=True, kw_only=True)
class SyncResult:
    """What every rank knows after the exchange."""

    losses: np.ndarray  # mean loss of every slot, shape `(num_slots,)`; 0 where nothing was labelled
    labelled: np.ndarray  # labelled samples of every slot, shape `(num_slots,)`
    damaged: np.ndarray  # samples of every slot that were left out because they cannot be read, shape `(num_slots,)`
    nonfinite: list[int]  # tasks whose loss, head gradient or norm statistics are not finite
    stop: bool  # whether some rank was asked to stop
    num_bytes: int  # size of the buffer


class StepSync:
    """Collects the results of a rank's slots, exchanges them, and puts the outcome into the model."""

    def __init__(self, model: RoutedModel, world_size: int, accumulate: int) -> None:
        self.model, self.world_size, self.accumulate = model, world_size, accumulate
        self.statistics = NormStatistics(model)
        self._losses: dict[int, torch.Tensor] = {}
        self._counts: dict[int, tuple[int, int]] = {}
        self._mean_changes: list[tuple[int, torch.Tensor, int]] = []

    def record(self, slot: int, loss: torch.Tensor, labelled: int, damaged: int) -> None:
        """Notes the mean loss of one of this rank's slots, and how many labelled and damaged samples it had."""
        self._losses[slot], self._counts[slot] = loss.detach(), (labelled, damaged)

    def exchange(self, tasks: np.ndarray, stop: bool = False, scaled: bool = False) -> SyncResult:
        """Reduces over ranks: afterwards head gradients are equal everywhere, and `apply_statistics` may follow.

        Args:
            tasks: The task of every slot of the step, shape `(num_slots,)`. Head gradients are expected to come from
                losses divided by `accumulate`.
            stop: Whether this rank was asked to stop.
            scaled: Whether gradients are scaled for fp16: the scaler then handles overflow in them.
        """
        layout = self._layout(tasks)
        flat = self._pack(layout, len(tasks), stop)
        if self.world_size > 1:
            dist.all_reduce(flat)
        parts = layout.unpack(flat)
        num_slots = len(tasks)
        # one copy to the host for all numbers
        finite = flat.isfinite().all().to(flat.dtype)[None]
        numbers = torch.cat([flat[: 3 * num_slots + 1], finite]).double().cpu().numpy()
        losses, labelled, damaged = numbers[:-2].reshape(3, num_slots)
        nonfinite = [] if numbers[-1] else self._find_nonfinite(tasks, losses, parts, scaled)
        self._set_gradients(tasks, labelled > 0, parts)
        return SyncResult(
            losses=losses,
            labelled=labelled,
            damaged=damaged,
            nonfinite=nonfinite,
            stop=numbers[-2] > 0,
            num_bytes=flat.numel() * flat.element_size(),
        )

    def apply_statistics(self) -> None:
        """Adds the mean changes of the last exchange to the norm statistics."""
        for stat_row, change, num_slots in self._mean_changes:
            self.statistics.add(stat_row, change, num_slots)
        self._mean_changes = []

    def _layout(self, tasks: np.ndarray) -> BufferLayout:
        """Returns the layout of a step's buffer, the same on all ranks."""
        num_slots, active = len(tasks), np.unique(tasks).tolist()
        shapes: dict[Hashable, tuple[int, ...]] = dict.fromkeys((LOSSES, LABELLED, DAMAGED), (num_slots,))
        shapes[STOP] = (1,)
        for key, parameter in self._head_parameters(active):
            shapes[key] = tuple(parameter.shape)
        for stat_row in sorted({self.statistics.stat_row_of(task_id) for task_id in active}):
            shapes[StatisticsChange(stat_row)] = (self.statistics.num_values,)
        return BufferLayout(shapes)

    def _head_parameters(self, task_ids: Sequence[int]) -> Iterator[tuple[HeadGradient, torch.nn.Parameter]]:
        for task_id in task_ids:
            for name, parameter in self.model.heads[task_id].named_parameters():
                yield HeadGradient(task_id, name), parameter

    def _pack(self, layout: BufferLayout, num_slots: int, stop: bool) -> torch.Tensor:
        """Moves what this rank has collected into the buffer."""
        parts: dict[Hashable, torch.Tensor] = {}
        heads = [key for key in layout.shapes if isinstance(key, HeadGradient)]
        like = self.model.heads[heads[0].task_id].get_parameter(heads[0].parameter)
        for key in heads:
            gradient = self.model.heads[key.task_id].get_parameter(key.parameter).grad
            if gradient is not None:
                parts[key] = gradient
        for name in (LOSSES, LABELLED, DAMAGED):
            parts[name] = like.new_zeros(num_slots)
        for slot, loss in self._losses.items():
            parts[LOSSES][slot] = loss
            parts[LABELLED][slot], parts[DAMAGED][slot] = self._counts[slot]
        parts[STOP] = like.new_full((1,), float(stop))
        for stat_row, change in self.statistics.changes.items():
            parts[StatisticsChange(stat_row)] = change
        self._losses, self._counts = {}, {}
        self.statistics.changes = {}
        return layout.pack(parts, like.detach())

    def _set_gradients(self, tasks: np.ndarray, ran: np.ndarray, parts: Mapping[Hashable, torch.Tensor]) -> None:
        """Gives every active head the mean of its gradients over the slots with a labelled sample (`ran`), and keeps the changes
        of norm statistics for later; `parts` are sums over all ranks."""
        active = np.unique(tasks).tolist()
        num_slots = {task_id: int(ran[tasks == task_id].sum()) for task_id in active}
        for key, parameter in self._head_parameters(active):
            count = num_slots[key.task_id]
            parameter.grad = parts[key] * (self.accumulate / count) if count else None
        self._mean_changes = []
        for part, change in parts.items():
            if isinstance(part, StatisticsChange):
                users = [task_id for task_id in active if self.statistics.stat_row_of(task_id) == part.stat_row]
                count = sum(num_slots[task_id] for task_id in users)
                if count and self.statistics.norms:
                    self._mean_changes.append((part.stat_row, change, count))

    def _find_nonfinite(
        self, tasks: np.ndarray, losses: np.ndarray, parts: Mapping[Hashable, torch.Tensor], scaled: bool
    ) -> list[int]:
        """Returns the tasks that brought a number that is not finite into a step: those whose loss shows it, else those
        whose head gradient does (unless gradients are scaled), else those whose norm statistics do."""
        by_loss = np.unique(tasks[~np.isfinite(losses)]).tolist()
        bad = {key for key, part in parts.items() if not bool(part.isfinite().all())}
        by_gradient = sorted({key.task_id for key in bad if isinstance(key, HeadGradient)})
        if by_loss or (by_gradient and not scaled):
            return by_loss or by_gradient
        stat_rows = {key.stat_row for key in bad if isinstance(key, StatisticsChange)}
        return [task_id for task_id in np.unique(tasks).tolist() if self.statistics.stat_row_of(task_id) in stat_rows]
