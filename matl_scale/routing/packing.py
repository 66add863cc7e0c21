"""Convs of evaluation on a CPU: oneDNN computes them from weights in a layout of its own and images with the channels last. torch
converts a plain weight at every call, which costs a small map more than the conv; here it is converted once, for all batches.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx
from torch.nn import functional

from matl_scale.routing.derive import input_index


class PackedWeight:
    """A conv's weight, in the layout that suits maps of the height and width that it met last."""

    def __init__(self, weight: torch.Tensor) -> None:
        self._weight, self._size = weight, torch.Size()  # either a plain tensor, or one packed for maps of this size

    def convolve(
        self,
        x: torch.Tensor,
        bias: torch.Tensor | None,
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        groups: int,
    ) -> torch.Tensor:
        """Returns the conv of `x`, shape `(batch, num_inputs, height, width)`, float32, with the channels last in memory."""
        if x.shape[2:] != self._size:
            plain = self._weight.to_dense() if self._weight.is_mkldnn else self._weight
            reorder: Any = torch._C._nn.mkldnn_reorder_conv2d_weight
            self._weight = reorder(plain.to_mkldnn(), padding, stride, dilation, groups, x.shape)
            self._size = x.shape[2:]
        last = x.contiguous(memory_format=torch.channels_last)
        convolve: Any = torch.ops.mkldnn._convolution_pointwise
        result: torch.Tensor = convolve(last, self._weight, bias, padding, stride, dilation, groups, "none", [], "")
        return result


def can_pack(weight: torch.Tensor) -> bool:
    """Returns whether a conv with this weight runs in oneDNN's kernels for float32, as things are now."""
    return (
        weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_convolution_pointwise")  # no public operation takes packed weights
        and bool(torch.backends.mkldnn.enabled)
        and not torch.is_autocast_enabled("cpu")
        and not torch.is_grad_enabled()
    )


def convolve(
    x: torch.Tensor, weight: torch.Tensor | PackedWeight, bias: torch.Tensor | None = None, **options: Any
) -> torch.Tensor:
    """`torch.nn.functional.conv2d`, whose weight may be packed."""
    if isinstance(weight, PackedWeight):
        return weight.convolve(x, bias, **options)
    return functional.conv2d(x, weight, bias, **options)


def let_convs_be_packed(dense: fx.GraphModule) -> set[int]:
    """Lets the convs of a derived network take packed weights. Returns the indices of the slices that are such weights."""
    found = set[int]()
    for node in dense.graph.nodes:
        # a padding by name stays as it is: oneDNN wants numbers
        if node.target is functional.conv2d and not isinstance(node.kwargs["padding"], str):
            index = input_index(node.args[1], "slices")
            assert index is not None
            node.target = convolve
            found.add(index)
    dense.recompile()
    return found
