"""Gradients of slices, added straight to those of whole parameters.

Autograd alone makes a tensor of a parameter's size for each slice, mostly zeros, and adds it to those of the slices before: for a
small batch, more memory traffic than the layer itself. Here only the elements of a slice are read and written.
"""

from dataclasses import dataclass, field

import torch
from torch.utils.weak import WeakTensorKeyDictionary


@dataclass
class Buffer:
    """A parameter's gradient that is used again in the next step."""

    values: torch.Tensor
    version: int = -1  # of the tensor when it was last written here; another one means that others wrote to it
    touched: list[torch.Tensor] = field(default_factory=list)  # rows that are not zero


class SliceGradients:
    """Adds the gradients of slices to `parameter.grad`, and keeps that tensor from step to step.

    Rows are those of a parameter seen as a matrix: its first dimension, or the first two, flattened. What is added, and its
    order, are as with autograd, so that results are equal to the last bit.

    Attributes:
        active: Whether gradients are added here. Else autograd adds them, which data-parallel training relies on in the
            micro-step in which gradients are reduced.
    """

    def __init__(self) -> None:
        self.active = True
        self._buffers = WeakTensorKeyDictionary()  # from a parameter to its `Buffer`

    def takes(self, parameter: torch.Tensor) -> bool:
        """Returns whether the gradient of a slice of a parameter can be added here."""
        return self.active and parameter.is_leaf and parameter.requires_grad and parameter.is_contiguous()

    def add(self, parameter: torch.Tensor, rows: torch.Tensor, grad: torch.Tensor, num_rows: int) -> None:
        """Adds a gradient to some rows of a parameter.

        Args:
            parameter: A leaf with contiguous memory.
            rows: Unique indices of rows, shape `(num_selected,)`.
            grad: Of as many elements as these rows have.
            num_rows: Rows of the whole parameter.
        """
        buffer: Buffer | None = self._buffers.get(parameter)
        matrix = grad.reshape(len(rows), -1)
        if parameter.grad is None:
            buffer = self._emptied(parameter, buffer, num_rows)
            parameter.grad = buffer.values
            parameter.grad.view(num_rows, -1).index_copy_(0, rows, matrix)
        else:
            whole = parameter.grad.view(num_rows, -1)
            whole.index_copy_(0, rows, whole.index_select(0, rows).add_(matrix))  # unique rows need no atomic additions
        if buffer is not None and parameter.grad is buffer.values:
            buffer.touched.append(rows)
            buffer.version = buffer.values._version

    def _emptied(self, parameter: torch.Tensor, buffer: Buffer | None, num_rows: int) -> Buffer:
        """Returns the buffer of a parameter, all zeros."""
        if buffer is None:
            buffer = self._buffers[parameter] = Buffer(torch.zeros_like(parameter))
        elif buffer.version != buffer.values._version:
            buffer.values.zero_()
        else:
            for rows in buffer.touched:
                buffer.values.view(num_rows, -1).index_fill_(0, rows, 0)
        buffer.touched = []
        return buffer
