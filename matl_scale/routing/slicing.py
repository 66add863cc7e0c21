"""Cutting a parameter to the units of one task, and carrying the slice's gradient back into the whole parameter.

Units are unique, so the way back is a plain copy to their places: no sorting, no atomic additions.
"""

from typing import Any

import torch


class SelectUnits(torch.autograd.Function):
    """`weight[rows][:, columns]`; one of them may be None for all."""

    @staticmethod
    def forward(weight: torch.Tensor, rows: torch.Tensor | None, columns: torch.Tensor | None) -> torch.Tensor:
        if not weight.is_contiguous():  # channels_last: keep it so
            last = weight.movedim(1, -1)
            return SelectUnits._select(SelectUnits._select(last, 0, rows), -1, columns).movedim(-1, 1)
        if rows is None or columns is None:
            return SelectUnits._select(SelectUnits._select(weight, 0, rows), 1, columns)
        if weight.shape[2:].numel() == 1:
            return weight.index_select(0, rows).index_select(1, columns)
        blocks = flat_places(rows, columns, weight.shape[1])
        kept = weight.view(weight.shape[0] * weight.shape[1], -1).index_select(0, blocks)
        return kept.view(len(rows), len(columns), *weight.shape[2:])

    @staticmethod
    def _select(weight: torch.Tensor, dim: int, places: torch.Tensor | None) -> torch.Tensor:
        return weight if places is None else weight.index_select(dim, places)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:  # noqa: ARG004
        weight, rows, columns = inputs
        ctx.save_for_backward(rows, columns)
        ctx.shape, ctx.stride, ctx.contiguous = weight.shape, weight.stride(), weight.is_contiguous()

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (grad,) = grads
        rows, columns = ctx.saved_tensors
        full = torch.empty_strided(ctx.shape, ctx.stride, dtype=grad.dtype, device=grad.device).zero_()
        if columns is None:
            return full.index_copy_(0, rows, grad), None, None
        if rows is None:
            return full.index_copy_(1, columns, grad), None, None
        if not ctx.contiguous:
            last = full.movedim(1, -1)
            wide = grad.new_zeros(len(rows), *last.shape[1:]).index_copy_(-1, columns, grad.movedim(1, -1))
            last.index_copy_(0, rows, wide)
            return full, None, None
        blocks = flat_places(rows, columns, ctx.shape[1])
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
        return weight
    if weight.ndim == 1:
        assert rows is not None
        return weight.index_select(0, rows)
    selected: torch.Tensor = SelectUnits.apply(weight, rows, columns)
    return selected
