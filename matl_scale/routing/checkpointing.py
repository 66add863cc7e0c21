"""Gradient checkpointing: of the forward pass, only what lies between the blocks of a network is kept; the rest is computed again
in the backward pass, block by block (Chen, Xu, Zhang, Guestrin, Training deep nets with sublinear memory cost, 2016, arXiv
1604.06174).

The second pass draws the same random numbers, runs every module in the mode that it had in the first one, and leaves running
statistics alone.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import fx, nn
from torch.fx.passes.split_module import split_module
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from matl_scale.routing.batch_norm import route_norms

PART = "submod_"  # what torch calls the parts of a graph
MIN_LAYERS = 2  # of a part; with one, nothing would be saved


def checkpointed(network: fx.GraphModule) -> fx.GraphModule:
    """Returns a network with the same modules and results, whose first input are images, or a list of tensors that depend on
    them, and which keeps less for its backward pass."""
    numbers = number_parts(network)
    split = split_module(network, network, lambda node: numbers[node], keep_original_order=True)
    for name, part in list(split.named_children()):
        if name.startswith(PART):
            setattr(split, name, Part(part))
    return split


class Part(nn.Module):
    """A part of a network that is computed again in the backward pass."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part
        self.norms = route_norms(part)

    def forward(self, *inputs: Any) -> Any:
        if not torch.is_grad_enabled():
            return self.part(*inputs)
        modes = {module: module.training for module in self.part.modules()}
        return checkpoint(
            self.part,
            *inputs,
            use_reentrant=False,
            context_fn=lambda: (contextlib.nullcontext(), self._again(modes)),
        )

    @contextlib.contextmanager
    def _again(self, modes: dict[nn.Module, bool]) -> Iterator[None]:
        """Context manager for the second pass."""
        now = {module: module.training for module in modes}
        for module, training in modes.items():
            module.training = training
        for norm in self.norms:
            norm.updates_statistics = False
        try:
            yield
        finally:
            for norm in self.norms:
                norm.updates_statistics = True
            for module, training in now.items():
                module.training = training


def number_parts(network: fx.GraphModule) -> dict[fx.Node, int]:
    """Returns the part of every node: a new one begins with a conv or linear layer if a single tensor is all that the rest of the
    network needs of what was computed from the images before, and if that has `MIN_LAYERS` layers."""
    nodes = list(network.graph.nodes)
    places = {node: place for place, node in enumerate(nodes)}
    last_use = {node: max((places[user] for user in node.users), default=-1) for node in nodes}
    numbers: dict[fx.Node, int] = {}
    computed: set[fx.Node] = {nodes[0]}  # from the images
    number, num_layers = 0, 0
    for place, node in enumerate(nodes):
        if place and computed.intersection(node.all_input_nodes):
            if is_layer(network, node):
                waiting = [source for source in computed if last_use[source] >= place]
                if num_layers >= MIN_LAYERS and len(waiting) == 1:
                    number, num_layers = number + 1, 0
                num_layers += 1
            computed.add(node)
        numbers[node] = number
    return numbers


def is_layer(network: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        return isinstance(network.get_submodule(str(node.target)), nn.Conv2d | nn.Linear)
    return node.target in (functional.conv2d, functional.linear)
