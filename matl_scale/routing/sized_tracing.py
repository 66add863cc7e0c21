"""Tracing of backbones that are built for one image size: whatever reads a shape gets numbers, and the batch's alone stays open.

torch.fx hands a symbol to code that reads `x.shape`. Transformers compute with shapes and branch on them, which symbols do not
allow, and the graph would depend on them everywhere. Here every value also runs on the meta device, where only shapes are found.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import fx, nn
from torch.func import functional_call

EXAMPLE_BATCH = 2


class SizedProxy(fx.Proxy):
    """A value whose shape is known but for its first dimension, if it depends on the images."""

    @property
    def shape(self) -> "Sizes":
        return Sizes(self)

    def size(self, dim: int | None = None) -> Any:
        return self.shape if dim is None else self.shape[dim]

    def dim(self) -> int:
        return self.example.ndim

    @property
    def ndim(self) -> int:
        return self.example.ndim

    @property
    def example(self) -> torch.Tensor:
        assert isinstance(self.tracer, SizedTracer)
        value = self.tracer.examples[self.node]
        if not isinstance(value, torch.Tensor):
            raise TypeError(f"the shape of {self.node.name}, which is no tensor")
        return value


class Sizes(tuple[Any, ...]):
    """The shape of a tensor, where the batch is a symbol."""

    def __new__(cls, proxy: SizedProxy) -> "Sizes":
        numbers: list[Any] = list(proxy.example.shape)
        assert isinstance(proxy.tracer, SizedTracer)
        if numbers and proxy.node in proxy.tracer.with_batch:
            numbers[0] = proxy.tracer.create_proxy("call_method", "size", (proxy, 0), {})
        return super().__new__(cls, numbers)

    def numel(self) -> Any:
        total: Any = 1
        for number in self:
            total = total * number
        return total


class SizedTracer(fx.Tracer):
    """Traces a backbone for images of `image_size` pixels; None traces as torch.fx does.

    Attributes:
        examples: The value of every node for a batch of images, on the meta device.
        with_batch: The nodes that depend on the images.
        is_running: Whether a value is being computed, so that nothing is traced.
    """

    def __init__(self, image_size: int | None = None) -> None:
        super().__init__()
        self.image_size = image_size
        self.examples: dict[fx.Node, Any] = {}
        self.with_batch: set[fx.Node] = set()
        self.is_running = False

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        return forward(*args, **kwargs) if self.is_running else super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        return attr_val if self.is_running else super().getattr(attr, attr_val, parameter_proxy_cache)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return fx.Proxy(node, self) if self.image_size is None else SizedProxy(node, self)

    def create_node(self, kind: str, target: Any, args: Any, kwargs: Any, *others: Any, **options: Any) -> fx.Node:
        node = super().create_node(kind, target, args, kwargs, *others, **options)
        if self.image_size is not None and kind != "output":
            self.examples[node] = self.run(node)
            if kind == "placeholder" or self.with_batch.intersection(node.all_input_nodes):
                self.with_batch.add(node)
        return node

    def run(self, node: fx.Node) -> Any:
        """Returns a node's value on the meta device."""
        args, kwargs = fx.map_arg((node.args, node.kwargs), self.examples.__getitem__)
        self.is_running = True
        try:
            with torch.no_grad():
                return self._compute(node, args, kwargs)
        finally:
            self.is_running = False

    def _compute(self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if node.op == "placeholder":
            assert self.image_size is not None
            size = (EXAMPLE_BATCH, 3, self.image_size, self.image_size)
            return torch.empty(size, device="meta", dtype=torch.float32)
        if node.op == "get_attr":
            owner, _, name = str(node.target).rpartition(".")
            return on_meta(getattr(self.root.get_submodule(owner), name))
        if node.op == "call_module":
            module = self.root.get_submodule(str(node.target))
            return functional_call(module, dict(tensors_on_meta(module)), args, kwargs)
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        assert callable(node.target)
        return node.target(*args, **kwargs)


def tensors_on_meta(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        yield name, on_meta(tensor)


def on_meta(tensor: torch.Tensor) -> torch.Tensor:
    dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
    return torch.empty_like(tensor, device="meta", dtype=dtype)
