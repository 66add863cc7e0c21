"""The slices of a sub-network: parameters cut to one route's units, whose gradients flow back into the whole parameter.

Indices are unique, so the backward pass is a plain indexed copy, without sorting or atomic additions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from matl_scale.errors import InputError
from matl_scale.routing.affine import AffineNorm, AffineWeights, read_affine
from matl_scale.routing.batch_norm import RouteBatchNorm2d

if TYPE_CHECKING:  # a served network is not trained
    from matl_scale.routing.slice_gradients import SliceGradients

LONG_BLOCK = 64  # numbers; measured on a CPU
Table = int | None  # the number of an index table; None where all units are active for every route
Indices = dict[Table, torch.Tensor | None]  # one route's active indices, by table; None for all
StackedIndices = Indices  # the same of several slots, each of shape `(num_slots, num_active)`


class SelectUnits(torch.autograd.Function):
    """`weight[outputs][:, inputs]`; either may be None for all."""

    # no separate `setup_context`: torch would then bind the signature at every call, which costs more than a small layer
    @staticmethod
    def forward(
        ctx: Any,
        weight: torch.Tensor,
        outputs: torch.Tensor | None,
        inputs: torch.Tensor | None,
        gradients: "SliceGradients | None",
    ) -> torch.Tensor:
        ctx.shape, ctx.stride, ctx.contiguous = weight.shape, weight.stride(), weight.is_contiguous()
        ctx.weight, ctx.gradients = (None, None) if gradients is None else (weight, gradients)
        if not ctx.contiguous:  # channels_last stays channels_last
            ctx.save_for_backward(outputs, inputs, None)
            last = weight.movedim(1, -1)
            return SelectUnits._select(SelectUnits._select(last, 0, outputs), -1, inputs).movedim(-1, 1)
        if outputs is None or inputs is None:
            ctx.save_for_backward(outputs, inputs, None)
            return SelectUnits._select(SelectUnits._select(weight, 0, outputs), 1, inputs)
        # the indices of all (output, input) pairs in the flattened first two dimensions
        blocks = (outputs[:, None] * weight.shape[1] + inputs).flatten()
        ctx.save_for_backward(outputs, inputs, blocks)
        if weight.shape[2:].numel() == 1:
            return weight.index_select(0, outputs).index_select(1, inputs)
        selected = weight.view(weight.shape[0] * weight.shape[1], -1).index_select(0, blocks)
        return selected.view(len(outputs), len(inputs), *weight.shape[2:])

    @staticmethod
    def _select(weight: torch.Tensor, dim: int, indices: torch.Tensor | None) -> torch.Tensor:
        return weight if indices is None else weight.index_select(dim, indices)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, None, None, None]:
        (grad,) = grads
        outputs, inputs, blocks = ctx.saved_tensors
        rows = outputs if inputs is None else blocks
        if rows is not None and ctx.gradients is not None and ctx.gradients.takes(ctx.weight):
            num_rows = ctx.shape[0] if inputs is None else ctx.shape[:2].numel()
            ctx.gradients.add(ctx.weight, rows, grad, num_rows)
            return None, None, None, None
        full = torch.empty_strided(ctx.shape, ctx.stride, dtype=grad.dtype, device=grad.device).zero_()
        if inputs is None:
            full.index_copy_(0, outputs, grad)
        elif outputs is None:
            full.index_copy_(1, inputs, grad)
        elif blocks is None:
            last = full.movedim(1, -1)
            wide = grad.new_zeros(len(outputs), *last.shape[1:]).index_copy_(-1, inputs, grad.movedim(1, -1))
            last.index_copy_(0, outputs, wide)
        else:
            full.view(ctx.shape[0] * ctx.shape[1], -1).index_copy_(0, blocks, grad.reshape(len(blocks), -1))
        return full, None, None, None


def select_units(
    weight: torch.Tensor,
    outputs: torch.Tensor | None,
    inputs: torch.Tensor | None,
    gradients: "SliceGradients | None" = None,
) -> torch.Tensor:
    """Selects outputs and inputs of a parameter, shape `(num_outputs, num_inputs, ...)` or `(num_outputs,)`, by unique indices;
    None for all. The result has the same memory format. Its gradient reaches `weight`, where the other elements get zero; by
    `gradients`, if they are given."""
    if outputs is None and inputs is None:
        return weight.view_as(weight)  # a view, so that hooks on a slice do not stay on the parameter
    if weight.ndim == 1:
        assert outputs is not None
        return weight.index_select(0, outputs)
    selected: torch.Tensor = SelectUnits.apply(weight, outputs, inputs, gradients)
    return selected


class StackUnits(torch.autograd.Function):
    """Several `weight[outputs][:, inputs]`, one behind the other; either may be None for all. The gradients of all of them are
    added into one tensor."""

    @staticmethod
    def forward(
        ctx: Any, weight: torch.Tensor, outputs: torch.Tensor | None, inputs: torch.Tensor | None
    ) -> torch.Tensor:
        num_slots = len(outputs if outputs is not None else cast(torch.Tensor, inputs))
        ctx.shape = weight.shape
        if inputs is None:  # whole rows of the first dimension
            blocks = cast(torch.Tensor, outputs).flatten()
            ctx.num_blocks, shape = weight.shape[0], (len(blocks), *weight.shape[1:])
        else:
            if outputs is None:
                outputs = torch.arange(weight.shape[0], device=weight.device).expand(num_slots, -1)
            # the indices of all (output, input) pairs in the flattened first two dimensions
            blocks = (outputs[:, :, None] * weight.shape[1] + inputs[:, None]).flatten()
            ctx.num_blocks, shape = weight.shape[:2].numel(), (outputs.numel(), inputs.shape[1], *weight.shape[2:])
        ctx.save_for_backward(blocks)
        return weight.reshape(ctx.num_blocks, -1).index_select(0, blocks).view(shape)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (grad,) = grads
        (blocks,) = ctx.saved_tensors
        full = grad.new_zeros(ctx.num_blocks, ctx.shape.numel() // ctx.num_blocks)
        values = grad.reshape(len(blocks), -1)
        if full.shape[1] > LONG_BLOCK:
            full.index_add_(0, blocks, values)
        else:  # torch adds rows one call after the other, and columns in one loop
            for column in range(full.shape[1]):
                full[:, column].index_add_(0, blocks, values[:, column])
        return full.view(ctx.shape), None, None


def stack_units(
    weight: torch.Tensor, outputs: torch.Tensor | None, inputs: torch.Tensor | None, num_slots: int
) -> torch.Tensor:
    """Selects outputs and inputs of a parameter for several slots, as `select_units` does for one.

    Args:
        weight: Shape `(num_outputs, num_inputs, ...)` or `(num_outputs,)`.
        outputs: The outputs of each slot, unique for it, shape `(num_slots, num_selected)`; None for all.
        inputs: Likewise.
        num_slots: The number of slots.

    Returns:
        The slices of all slots, one behind the other in the first dimension.
    """
    if outputs is None and inputs is None:
        return weight.repeat(num_slots, *[1] * (weight.ndim - 1))
    stacked: torch.Tensor = StackUnits.apply(weight, outputs, inputs)
    return stacked


@dataclass(frozen=True, kw_only=True)
class Cut:
    """Recipe for a slice of a module's parameter. `outputs` and `inputs` are the index tables with the routes' active ones."""

    module: nn.Module
    name: str
    outputs: Table
    inputs: Table = None

    def make(self, indices: Indices, gradients: "SliceGradients | None" = None) -> torch.Tensor:
        weight = getattr(self.module, self.name)
        return select_units(weight, indices[self.outputs], indices[self.inputs], gradients)


@dataclass(frozen=True, kw_only=True)
class AffineCut(Cut):
    """Recipe for a slice of a norm's weight or bias that belongs to the route."""

    def make_own(self, indices: Indices, affine: AffineWeights) -> torch.Tensor:
        weight, bias = read_affine(cast(AffineNorm, self.module), affine)
        return select_units(weight if self.name == "weight" else bias, indices[self.outputs], None)

    def make_own_stacked(self, indices: StackedIndices, affine: Sequence[AffineWeights]) -> torch.Tensor:
        """Returns the slices of several slots, one behind the other, from the affine weights of the route of each."""
        tables = [
            {table: None if found is None else found[slot] for table, found in indices.items()}
            for slot in range(len(affine))
        ]
        return torch.cat([self.make_own(table, weights) for table, weights in zip(tables, affine, strict=True)])


@dataclass(frozen=True, kw_only=True)
class Fold:
    """Recipe for two slices: a conv's weight and bias with the batch norm behind it folded in, for evaluation. `channels` is the
    index table with the routes' active channels of the norm."""

    weight: Cut
    bias: Cut | None
    norm: RouteBatchNorm2d
    channels: Table

    def make(self, indices: Indices, route: torch.Tensor, affine: AffineWeights) -> tuple[torch.Tensor, torch.Tensor]:
        mean, var = self.norm.read(route)
        norm_weight, norm_bias = read_affine(self.norm, affine)
        scale = select_units(norm_weight, indices[self.channels], None) * (var + self.norm.eps).rsqrt()
        bias = -mean if self.bias is None else self.bias.make(indices) - mean
        weight = self.weight.make(indices) * scale[:, None, None, None]
        return weight, bias * scale + select_units(norm_bias, indices[self.channels], None)


@dataclass(frozen=True, kw_only=True)
class Extremes:
    """Recipe for the indices of a route's channels in the concatenated largest and smallest values of pooling windows. Where the
    weight of the norm behind the pool is negative, the smallest values are used. `channels` is its index table."""

    norm: RouteBatchNorm2d
    channels: Table

    def make(self, indices: Indices, affine: AffineWeights) -> torch.Tensor:
        active, (weight, _) = indices[self.channels], read_affine(self.norm, affine)
        if active is None:
            active = torch.arange(len(weight), device=weight.device)
        return active + self.norm.num_features * (weight.index_select(0, active) < 0)


SliceRecipe = Cut | Fold | Extremes | int  # an int: the active indices themselves, from the table of that number


def is_common(recipe: SliceRecipe) -> bool:
    """Returns whether a recipe makes the same slices for every route."""
    if isinstance(recipe, Fold):
        has_table = any(table is not None for table in (recipe.weight.outputs, recipe.weight.inputs, recipe.channels))
        return not has_table and recipe.norm.statistics == "shared" and recipe.norm.affine_index is None
    if isinstance(recipe, AffineCut):
        return False
    if isinstance(recipe, Cut):
        return recipe.outputs is None and recipe.inputs is None
    return isinstance(recipe, Extremes) and recipe.channels is None and recipe.norm.affine_index is None


def find_bypassed(module: nn.Conv2d | nn.Linear) -> str:
    """Returns what a layer does beside applying its weight and bias, which slices of them would bypass; empty if nothing."""
    standard: Callable[..., Any] = nn.Conv2d.forward if isinstance(module, nn.Conv2d) else nn.Linear.forward
    hooks = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks
    overridden = type(module).forward is not standard or "forward" in vars(module)
    if isinstance(module, nn.Conv2d):
        overridden = overridden or type(module)._conv_forward is not nn.Conv2d._conv_forward
    if hooks:
        return "it has hooks"
    return f"{type(module).__name__} has a forward of its own" if overridden else ""


def check_sliceable(module: nn.Conv2d | nn.Linear, name: str) -> None:
    """Raises `InputError` for a layer that does more than apply its weight and bias."""
    if what := find_bypassed(module):
        raise InputError(
            f"This backbone has no sub-networks: module `{name}`: {what}, which slices of its weight would bypass. "
            "Use `routing.execution` = masked."
        )
