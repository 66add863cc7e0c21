"""`dense_network()`: a task's sub-network as an ordinary network, without routers and without the argument `route`.

It runs the graph of sub-network execution with the slices of the task's route as its weights. Batch norms are folded into the
convs before them, and the head keeps only the columns of the route's active features. No tensor is shared with the routed
network.
"""

import copy
import keyword
import operator
import re
from typing import Any, cast

import torch
from torch import fx, nn
from torch.nn import functional

from matl_scale.deploy.export.layers import build_conv, build_linear, build_norm
from matl_scale.errors import InputError
from matl_scale.models.network import RoutedModel
from matl_scale.routing.derive import ActiveNorm, Derived, derive
from matl_scale.routing.layer_norms import RouteLayerNorm
from matl_scale.routing.slicing import Cut, Fold, SliceRecipe
from matl_scale.routing.subnetwork import SlicedNetwork
from matl_scale.vision import StochasticDepth

WITHOUT_EFFECT = (nn.Identity, nn.modules.dropout._DropoutNd, StochasticDepth)  # in evaluation mode
RESERVED = frozenset(dir(fx.GraphModule({}, fx.Graph())))


class DenseBuilder:
    """Walks a derived network's graph and writes that of the dense network, whose weights are one route's slices. Use
    `dense_network`."""

    def __init__(self, trunk: fx.GraphModule, derived: Derived, route_id: int) -> None:
        network = SlicedNetwork(trunk, derived)
        self.derived = derived
        self.route = torch.tensor([route_id], device=next(iter(trunk.buffers())).device)
        self.slices = network.gather(self.route)
        self.names = {module: name for name, module in trunk.named_modules(remove_duplicate=False)}
        self.cuts = cuts_of(derived.recipes)
        self.active_features = network.active_features(self.route)
        self.modules: dict[str, Any] = {}
        self.copies: dict[str, str] = {}  # names of modules without weights in this graph, by their names in the trunk
        self.graph = fx.Graph()
        self.images = self.graph.placeholder("images")
        self.values: dict[fx.Node, fx.Node] = {}

    def run(self, weight: torch.Tensor, bias: torch.Tensor) -> fx.GraphModule:
        """Returns the network with a head of this weight, `(num_classes, num_features)`, and bias, `(num_classes,)`."""
        for node in self.derived.dense.graph.nodes:
            if node.op == "output":
                features = self.value(node.args[0])
            elif node.op != "placeholder" and self.input_index(node, "slices") is None:
                self.values[node] = self.convert(node)
        self.graph.output(self.call(self.cut_head(weight, bias), "head", features))
        self.graph.lint()
        return fx.GraphModule(self.modules, self.graph, "DenseNetwork").eval()

    def convert(self, node: fx.Node) -> fx.Node:
        if self.input_index(node, "tensors") is not None:
            return self.images
        if node.target in (functional.conv2d, functional.linear):
            return self.convert_layer(node)
        if node.op != "call_module":
            return self.copy(node)
        module = self.derived.dense.get_submodule(str(node.target))
        if isinstance(module, ActiveNorm):
            return self.convert_norm(node, module)
        if isinstance(module, WITHOUT_EFFECT):
            return self.value(node.args[0])
        if str(node.target) not in self.copies:
            self.copies[str(node.target)] = self.add(copy.deepcopy(module), str(node.target))
        copied = self.copy(node)
        copied.target = self.copies[str(node.target)]
        return copied

    def copy(self, node: fx.Node) -> fx.Node:
        copied = self.graph.node_copy(node, self.value)
        copied.meta.clear()
        return copied

    def convert_layer(self, node: fx.Node) -> fx.Node:
        indices = [self.input_index(argument, "slices") for argument in node.args[1:]]
        tensors = [self.slices[cast(int, index)] for index in indices]
        is_conv = node.target is functional.conv2d
        layer: nn.Module = build_conv(tensors, dict(node.kwargs)) if is_conv else build_linear(tensors)
        return self.call(layer, self.names[self.cuts[cast(int, indices[0])].module], self.value(node.args[0]))

    def convert_norm(self, node: fx.Node, active: ActiveNorm) -> fx.Node:
        affine = [self.slices[cast(int, self.input_index(argument, "slices"))] for argument in node.args[2:]]
        norm, name = build_norm(active.norm, self.route, affine), self.names[active.norm]
        x = self.value(node.args[0])
        if isinstance(active.norm, RouteLayerNorm) and active.norm.channel_dim != -1:
            last = self.graph.call_function(torch.movedim, (x, active.norm.channel_dim, -1))
            return self.graph.call_function(torch.movedim, (self.call(norm, name, last), -1, active.norm.channel_dim))
        return self.call(norm, name, x)

    def cut_head(self, weight: torch.Tensor, bias: torch.Tensor) -> nn.Linear:
        """Returns the head with the columns of the route's active features. A flatten makes several features of a channel."""
        if self.active_features is not None:
            by_channel = weight.view(len(weight), self.derived.num_channels, -1)
            weight = by_channel.index_select(1, self.active_features).flatten(1)
        return build_linear([weight, bias])

    def call(self, module: nn.Module, name: str, x: fx.Node) -> fx.Node:
        return self.graph.call_module(self.add(module, name), (x,))

    def add(self, target: Any, name: str) -> str:
        """Adds a module or tensor under a name that is an identifier. Returns the name."""
        name = re.sub(r"\W", "_", name)
        if keyword.iskeyword(name) or name in RESERVED or not name.isidentifier():
            name = f"layer_{name}"
        while name in self.modules:
            name += "_"
        self.modules[name] = target
        return name

    def value(self, node: Any) -> fx.Node:
        """Returns this graph's node for a node of the derived graph. A slice that belongs to no layer becomes a parameter."""
        if node not in self.values:
            index = self.input_index(node, "slices")
            assert index is not None, node
            cut, value = self.cuts[index], self.slices[index].clone()
            is_parameter = isinstance(getattr(cut.module, cut.name), nn.Parameter)
            name = f"{self.names[cut.module]}.{cut.name}"
            self.values[node] = self.graph.get_attr(self.add(nn.Parameter(value) if is_parameter else value, name))
        return self.values[node]

    def input_index(self, node: Any, name: str) -> int | None:
        """Returns which element of an input of the derived graph a node reads; None if it reads none."""
        if not isinstance(node, fx.Node) or node.target is not operator.getitem:
            return None
        source, index = node.args
        is_input = isinstance(source, fx.Node) and source.op == "placeholder" and source.target == name
        return cast(int, index) if is_input else None


def cuts_of(recipes: list[SliceRecipe]) -> list[Cut]:
    """Returns the cut behind every slice: for a folded weight and bias, that of the conv's weight."""
    cuts: list[Cut] = []
    for recipe in recipes:
        assert isinstance(recipe, Cut | Fold)  # the others occur only where values are common to several tasks
        cuts += [recipe] if isinstance(recipe, Cut) else [recipe.weight, recipe.weight]
    return cuts


def dense_network(model: RoutedModel, task_id: int) -> fx.GraphModule:
    """Returns a task's sub-network as a network of its own, in evaluation mode.

    Args:
        model: The routed network, which is left unchanged.
        task_id: The task.

    Returns:
        A module from normalised images `(batch, 3, height, width)` to logits `(batch, num_classes)`.

    Raises:
        InputError: There is no such task, or a layer cannot be sliced; names it.
    """
    if not 0 <= task_id < len(model.num_classes):
        raise InputError(f"`task_id` should be 0 to {len(model.num_classes) - 1}. Got {task_id}.")
    route_id, rows = model.routes.route_of[task_id], model.columns_of(task_id)
    heads = model.heads_of(route_id)
    with torch.no_grad():
        builder = DenseBuilder(model.trunk, derive(model.trunk, fold=True), route_id)
        return builder.run(torch.cat([h.weight for h in heads])[rows], torch.cat([h.bias for h in heads])[rows])
