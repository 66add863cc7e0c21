"""The slices of a sub-network: parameters cut to the units of one task, whose gradients go back into the whole parameter.

Units are unique, so the way back is a plain copy to their places: no sorting, no atomic additions.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from matl_scale.routing.batch_norm import TaskBatchNorm2d

Places = dict[int, torch.Tensor]


class SelectUnits(torch.autograd.Function):
    """`weight[rows][:, columns]`; one of them may be None for all."""

    # not in two parts (`setup_context`): torch then binds the signature at every call, which takes longer than a small layer
    @staticmethod
    def forward(
        ctx: Any, weight: torch.Tensor, rows: torch.Tensor | None, columns: torch.Tensor | None
    ) -> torch.Tensor:
        ctx.shape, ctx.stride, ctx.contiguous = weight.shape, weight.stride(), weight.is_contiguous()
        if not ctx.contiguous:  # channels_last: keep it so
            ctx.save_for_backward(rows, columns, None)
            last = weight.movedim(1, -1)
            return SelectUnits._select(SelectUnits._select(last, 0, rows), -1, columns).movedim(-1, 1)
        if rows is None or columns is None:
            ctx.save_for_backward(rows, columns, None)
            return SelectUnits._select(SelectUnits._select(weight, 0, rows), 1, columns)
        blocks = flat_places(rows, columns, weight.shape[1])
        ctx.save_for_backward(rows, columns, blocks)
        if weight.shape[2:].numel() == 1:
            return weight.index_select(0, rows).index_select(1, columns)
        kept = weight.view(weight.shape[0] * weight.shape[1], -1).index_select(0, blocks)
        return kept.view(len(rows), len(columns), *weight.shape[2:])

    @staticmethod
    def _select(weight: torch.Tensor, dim: int, places: torch.Tensor | None) -> torch.Tensor:
        return weight if places is None else weight.index_select(dim, places)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (grad,) = grads
        rows, columns, blocks = ctx.saved_tensors
        full = torch.empty_strided(ctx.shape, ctx.stride, dtype=grad.dtype, device=grad.device).zero_()
        if columns is None:
            full.index_copy_(0, rows, grad)
        elif rows is None:
            full.index_copy_(1, columns, grad)
        elif blocks is None:
            last = full.movedim(1, -1)
            wide = grad.new_zeros(len(rows), *last.shape[1:]).index_copy_(-1, columns, grad.movedim(1, -1))
            last.index_copy_(0, rows, wide)
        else:
            full.view(ctx.shape[0] * ctx.shape[1], -1).index_copy_(0, blocks, grad.reshape(len(blocks), -1))
        return full, None, None


def flat_places(rows: torch.Tensor, columns: torch.Tensor, num_columns: int) -> torch.Tensor:
    """Returns the places of `(row, column)` pairs in a matrix flattened row by row."""
    return (rows[:, None] * num_columns + columns).flatten()


def select_units(weight: torch.Tensor, rows: torch.Tensor | None, columns: torch.Tensor | None) -> torch.Tensor:
    """Cuts a parameter to some of its outputs and inputs.

    Args:
        weight: Shape `(num_outputs, num_inputs, ...)`, or `(num_outputs,)`.
        rows: Places of the kept outputs, unique; None for all.
        columns: Places of the kept inputs, unique; None for all.

    Returns:
        A tensor of the same memory format; its gradient arrives in `weight`, zero elsewhere.
    """
    if rows is None and columns is None:
        return weight.view_as(weight)  # never the parameter itself: hooks on a slice go with the slice
    if weight.ndim == 1:
        assert rows is not None
        return weight.index_select(0, rows)
    selected: torch.Tensor = SelectUnits.apply(weight, rows, columns)
    return selected


@dataclass(frozen=True, kw_only=True)
class Cut:
    """How one slice is made.

    Attributes:
        module: The owner of the parameter.
        name: The parameter's name in it.
        rows: Number of the table with the outputs that a task keeps; None for all.
        columns: Likewise of its inputs.
    """

    module: nn.Module
    name: str
    rows: int | None
    columns: int | None = None

    def make(self, places: Places) -> torch.Tensor:
        rows, columns = (None if table is None else places[table] for table in (self.rows, self.columns))
        return select_units(getattr(self.module, self.name), rows, columns)


@dataclass(frozen=True, kw_only=True)
class Fold:
    """A conv's weight and bias with the batch norm behind it folded in, for evaluation.

    Attributes:
        weight: Of the conv.
        bias: Of the conv, if it has one.
        norm: The norm behind it.
        rows: Number of the table with the norm's channels.
    """

    weight: Cut
    bias: Cut | None
    norm: TaskBatchNorm2d
    rows: int

    def make(self, places: Places, task: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, var = self.norm.read(task)
        scale = select_units(self.norm.weight, places[self.rows], None) * (var + self.norm.eps).rsqrt()
        bias = -mean if self.bias is None else self.bias.make(places) - mean
        weight = self.weight.make(places) * scale[:, None, None, None]
        return weight, bias * scale + select_units(self.norm.bias, places[self.rows], None)


@dataclass(frozen=True, kw_only=True)
class Extremes:
    """Where a task's channels are among the largest and the smallest values of windows, side by side.

    Attributes:
        norm: Behind the pool; where its weight is negative, the smallest values count.
        rows: Number of the table with its channels.
    """

    norm: TaskBatchNorm2d
    rows: int

    def make(self, places: Places) -> torch.Tensor:
        kept = places[self.rows]
        return kept + self.norm.num_features * (self.norm.weight.index_select(0, kept) < 0)


Slice = Cut | Fold | Extremes | int
