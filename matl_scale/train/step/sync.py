"""What ranks exchange by hand after the backward passes of a step: one flat buffer, one all-reduce.

The buffer holds, per slot, its loss and how many labelled and damaged samples it had; whether a rank wants to stop; and for
the routes that some slot of the step ran, how many labels each of their tasks had, the gradients of their heads and of their
own affine weights, the changes of their norm statistics, and how much units matter to them, where that is measured. Its size
depends on the number of slots and on the tasks of the active routes, never on T. Trunk gradients are reduced by DDP.

The gradient of a head, and of a route's own affine weights, is the mean over the slots that ran its route with a labelled sample;
DDP's mean over ranks would shrink its step as ranks are added. Where no slot ran the route, or none with a labelled sample, it
ends as None, which optimizers leave alone.
"""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist

from matl_scale.data.shards.layout import MISSING
from matl_scale.models.network import RoutedModel
from matl_scale.train.masks.importance import UnitImportance
from matl_scale.train.step.buffer_layout import BufferLayout
from matl_scale.train.step.norm_statistics import NormStatistics

LOSSES, LABELLED, DAMAGED, STOP = "losses", "labelled", "damaged", "stop"


@dataclass(frozen=True)
class LabelCounts:
    """Key of a part of the buffer: how many labels each task of a route had, in the order of its logits."""

    route_id: int


@dataclass(frozen=True)
class HeadGradient:
    """Key of a part of the buffer: the gradient of one parameter of one of a route's head matrices."""

    route_id: int
    head: int
    parameter: str


@dataclass(frozen=True)
class AffineGradient:
    """Key of a part of the buffer: the gradient of a route's affine weights."""

    route_id: int


@dataclass(frozen=True)
class StatisticsChange:
    """Key of a part of the buffer: the summed changes of one row of the norm statistics (see `NormStatistics`)."""

    row: int


@dataclass(frozen=True)
class ImportanceChange:
    """Key of a part of the buffer: what the slots of a route add to the importance of units (see `UnitImportance`)."""

    route_id: int


@dataclass(frozen=True, kw_only=True)
class SyncResult:
    """What every rank knows after the exchange."""

    losses: np.ndarray  # loss of every slot, shape `(num_slots,)`; 0 where nothing was labelled
    labelled: np.ndarray  # samples of every slot with a label of its route, shape `(num_slots,)`
    labels: np.ndarray  # labels that every task had in all slots, shape `(num_tasks,)`
    damaged: np.ndarray  # samples of every slot that were left out because they cannot be read, shape `(num_slots,)`
    nonfinite: list[int]  # routes whose loss, own gradients or norm statistics are not finite
    stop: bool  # whether some rank was asked to stop
    num_bytes: int  # size of the buffer


class StepSync:
    """Collects the results of a rank's slots, exchanges them, and puts the outcome into the model."""

    def __init__(
        self, model: RoutedModel, world_size: int, accumulate: int, importance: UnitImportance | None = None
    ) -> None:
        self.model, self.world_size, self.accumulate, self.importance = model, world_size, accumulate, importance
        self.statistics = NormStatistics(model)
        self._losses: dict[int, torch.Tensor] = {}
        self._counts: dict[int, tuple[int, int]] = {}
        self._labels: dict[int, np.ndarray] = {}
        self._mean_changes: list[tuple[int, torch.Tensor, int]] = []
        self._importance_changes: dict[int, torch.Tensor] = {}

    def record(self, slot: int, route_id: int, loss: torch.Tensor, labels: np.ndarray, damaged: int) -> None:
        """Notes the loss of one of this rank's slots, how many damaged samples it had, and the labels of those that were trained
        on, −1 = none, shape `(num_labelled, num_tasks of the route)`; a filled label is none."""
        self._losses[slot], self._counts[slot] = loss.detach(), (len(labels), damaged)
        self._labels[route_id] = self._labels.get(route_id, 0) + (labels != MISSING).sum(axis=0)

    def exchange(
        self, routes: np.ndarray, stop: bool = False, scaled: bool = False, measured: bool = False
    ) -> SyncResult:
        """Reduces over ranks: afterwards the gradients of what belongs to one route are equal everywhere, and
        `apply_statistics` may follow.

        Args:
            routes: The route of every slot of the step, shape `(num_slots,)`. Gradients are expected to come from
                losses divided by `accumulate`.
            stop: Whether this rank was asked to stop.
            scaled: Whether gradients are scaled for fp16: the scaler then handles overflow in them.
            measured: Whether the importance of units was measured in all slots.
        """
        layout = self._layout(routes, measured)
        flat = self._pack(layout, len(routes), stop)
        if self.world_size > 1:
            dist.all_reduce(flat)
        parts = layout.unpack(flat)
        num_slots, active_tasks = len(routes), self._tasks_of(np.unique(routes).tolist())
        # one copy to the host for all numbers. A sum that is finite has finite terms, and is one pass
        finite = flat.sum().isfinite().to(flat.dtype)[None]
        numbers = torch.cat([finite, flat[: 3 * num_slots + 1 + len(active_tasks)]]).double().cpu().numpy()
        losses, labelled, damaged = numbers[1 : 3 * num_slots + 1].reshape(3, num_slots)
        labels = np.zeros(self.model.routes.num_tasks, dtype=np.int64)
        labels[active_tasks] = np.nan_to_num(numbers[3 * num_slots + 2 :])
        nonfinite = [] if numbers[0] else self._find_nonfinite(routes, losses, parts, scaled)
        self._set_gradients(routes, labelled > 0, parts)
        self._importance_changes = {
            key.route_id: part for key, part in parts.items() if isinstance(key, ImportanceChange)
        }
        return SyncResult(
            losses=losses,
            labelled=labelled,
            labels=labels,
            damaged=damaged,
            nonfinite=nonfinite,
            stop=numbers[3 * num_slots + 1] > 0,
            num_bytes=flat.numel() * flat.element_size(),
        )

    def apply_statistics(self) -> None:
        """Adds the mean changes of the last exchange to the norm statistics."""
        for row, change, num_slots in self._mean_changes:
            self.statistics.add(row, change, num_slots)
        self._mean_changes = []

    def apply_importance(self) -> None:
        """Adds the changes of the last exchange to the importance of units."""
        if self.importance is not None:
            self.importance.apply(self._importance_changes)

    def _layout(self, routes: np.ndarray, measured: bool) -> BufferLayout:
        """Returns the layout of a step's buffer, the same on all ranks."""
        num_slots, active = len(routes), np.unique(routes).tolist()
        shapes: dict[Hashable, tuple[int, ...]] = dict.fromkeys((LOSSES, LABELLED, DAMAGED), (num_slots,))
        shapes[STOP] = (1,)
        for route_id in active:  # directly behind, because they are copied to the host together
            shapes[LabelCounts(route_id)] = (len(self.model.routes.tasks_of[route_id]),)
        for key, parameter in self._own_parameters(active):
            shapes[key] = tuple(parameter.shape)
        for row in sorted({row for route_id in active for row in self.statistics.rows_of(route_id)}):
            shapes[StatisticsChange(row)] = (self.statistics.num_values(row),)
        if measured:
            assert self.importance is not None
            shapes.update({ImportanceChange(route_id): (self.importance.num_units,) for route_id in active})
        return BufferLayout(shapes)

    def _tasks_of(self, route_ids: Sequence[int]) -> list[int]:
        return [task_id for route_id in route_ids for task_id in self.model.routes.tasks_of[route_id]]

    def _own_parameters(
        self, route_ids: Sequence[int]
    ) -> Iterator[tuple[HeadGradient | AffineGradient, torch.nn.Parameter]]:
        """Yields the parameters of each route alone that are trained."""
        for route_id in route_ids:
            for number, head in enumerate(self.model.heads_of(route_id)):
                for name, parameter in head.named_parameters():
                    if parameter.requires_grad:
                        yield HeadGradient(route_id, number, name), parameter
            if self.model.affine is not None and self.model.affine.rows[route_id].requires_grad:
                yield AffineGradient(route_id), self.model.affine.rows[route_id]

    def _pack(self, layout: BufferLayout, num_slots: int, stop: bool) -> torch.Tensor:
        """Moves what this rank has collected into the buffer."""
        like = next(self.model.parameters()).detach()
        parts: dict[Hashable, torch.Tensor] = {}
        active = [key.route_id for key in layout.shapes if isinstance(key, LabelCounts)]
        for key, parameter in self._own_parameters(active):
            if parameter.grad is not None:
                parts[key] = parameter.grad
        for name in (LOSSES, LABELLED, DAMAGED):
            parts[name] = like.new_zeros(num_slots)
        for slot, loss in self._losses.items():
            parts[LOSSES][slot] = loss
            parts[LABELLED][slot], parts[DAMAGED][slot] = self._counts[slot]
        parts[STOP] = like.new_full((1,), float(stop))
        for route_id, counts in self._labels.items():
            parts[LabelCounts(route_id)] = torch.from_numpy(counts).to(like)
        for row, change in self.statistics.changes.items():
            parts[StatisticsChange(row)] = change
        if self.importance is not None:
            for route_id, change in self.importance.changes.items():
                parts[ImportanceChange(route_id)] = change.to(like)
            self.importance.changes = {}
        self._losses, self._counts, self._labels = {}, {}, {}
        self.statistics.changes = {}
        return layout.pack(parts, like)

    def _set_gradients(self, routes: np.ndarray, ran: np.ndarray, parts: Mapping[Hashable, torch.Tensor]) -> None:
        """Gives the parameters of every active route the mean of their gradients over the slots with a labelled sample
        (`ran`), and keeps the changes of norm statistics for later; `parts` are sums over all ranks."""
        active = np.unique(routes).tolist()
        num_slots = {route_id: int(ran[routes == route_id].sum()) for route_id in active}
        for key, parameter in self._own_parameters(active):
            count = num_slots[key.route_id]
            parameter.grad = parts[key] * (self.accumulate / count) if count else None
        self._mean_changes = []
        for part, change in parts.items():
            if isinstance(part, StatisticsChange):
                count = sum(num_slots[route_id] for route_id in active if part.row in self.statistics.rows_of(route_id))
                if count:
                    self._mean_changes.append((part.row, change, count))

    def _find_nonfinite(
        self, routes: np.ndarray, losses: np.ndarray, parts: Mapping[Hashable, torch.Tensor], scaled: bool
    ) -> list[int]:
        """Returns the routes that brought a number that is not finite into a step: those whose loss shows it, else those
        whose own gradient does (unless gradients are scaled), else those whose norm statistics do."""
        by_loss = np.unique(routes[~np.isfinite(losses)]).tolist()
        bad = {key for key, part in parts.items() if not bool(part.isfinite().all())}
        by_gradient = sorted({key.route_id for key in bad if isinstance(key, HeadGradient | AffineGradient)})
        if by_loss or (by_gradient and not scaled):
            return by_loss or by_gradient
        rows = {key.row for key in bad if isinstance(key, StatisticsChange)}
        return [
            route_id for route_id in np.unique(routes).tolist() if rows.intersection(self.statistics.rows_of(route_id))
        ]
