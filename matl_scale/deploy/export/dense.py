"""`dense_network()`: the sub-networks of tasks as an ordinary network, without routers and without the argument `route`.

It runs the graph of sub-network execution once per route, with the slices of the route as its weights; what is the same for all
routes runs once. Batch norms are folded into the convs before them, and a head keeps only the columns of the route's active
features. No tensor is shared with the routed network.
"""

import copy
import keyword
import operator
import re
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import fx, nn
from torch.nn import functional

from matl_scale.deploy.export.common import WITHOUT_EFFECT, common_slices, find_repeated
from matl_scale.deploy.export.layers import build_conv, build_linear, build_norm
from matl_scale.errors import InputError
from matl_scale.models.network import RoutedModel
from matl_scale.routing.derive import ActiveNorm, Derived, derive, input_index
from matl_scale.routing.layer_norms import RouteLayerNorm
from matl_scale.routing.slicing import Cut, Fold, SliceRecipe
from matl_scale.routing.subnetwork import SlicedNetwork

RESERVED = frozenset(dir(fx.GraphModule({}, fx.Graph())))


class DenseBuilder:
    """Walks a derived network's graph once per route and writes that of the dense network. Use `dense_network`."""

    def __init__(self, model: RoutedModel, derived: Derived, route_ids: Sequence[int]) -> None:
        trunk = model.trunk
        self.model, self.network, self.derived = model, SlicedNetwork(trunk, derived), derived
        self.device = next(iter(trunk.buffers())).device
        self.names = {module: name for name, module in trunk.named_modules(remove_duplicate=False)}
        self.cuts = cuts_of(derived.recipes)
        self.has_several = len(route_ids) > 1
        self.common = find_repeated(derived) if self.has_several else set()
        self.same_slices = common_slices(derived.recipes)
        self.modules: dict[str, Any] = {}
        self.layers: dict[fx.Node, str] = {}  # names of layers with the same weights for all routes, by their nodes
        self.copies: dict[str, str] = {}  # names of modules without weights in this graph, by their names in the trunk
        self.graph = fx.Graph()
        self.images = self.graph.placeholder("images")
        self.values: dict[fx.Node, fx.Node] = {}  # of the route that is being written, and common ones

    def add_route(self, route_id: int, weight: torch.Tensor, bias: torch.Tensor) -> fx.Node:
        """Writes a route with a head of this weight, `(num_classes, num_features)`, and bias, `(num_classes,)`. Returns the node
        of its logits."""
        self.route_id, self.route = route_id, torch.tensor([route_id], device=self.device)
        self.slices = self.network.gather(self.route, affine=self.model.affine_of(route_id))
        self.values = {node: value for node, value in self.values.items() if node in self.common}
        for node in self.derived.dense.graph.nodes:
            if node.op == "output":
                features = self.value(node.args[0])
            elif node.op != "placeholder" and node not in self.values and input_index(node, "slices") is None:
                self.values[node] = self.convert(node)
        return self.call(self.cut_head(weight, bias), self.route_name("head"), features)

    def split(self, logits: fx.Node, sizes: Sequence[int]) -> list[fx.Node]:
        """Returns the nodes of the logits of each task of a route; `sizes` are their numbers of classes."""
        parts = self.graph.call_method("split", (logits, list(sizes), 1))
        return [self.graph.call_function(operator.getitem, (parts, i)) for i in range(len(sizes))]

    def build(self, outputs: Sequence[fx.Node]) -> fx.GraphModule:
        """Returns the network. It returns a tuple, or a tensor if there is one output."""
        self.graph.output(outputs[0] if len(outputs) == 1 else tuple(outputs))
        self.graph.lint()
        return fx.GraphModule(self.modules, self.graph, "DenseNetwork").eval()

    def convert(self, node: fx.Node) -> fx.Node:
        if input_index(node, "tensors") is not None:
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
        if node in self.layers:
            return self.graph.call_module(self.layers[node], (self.value(node.args[0]),))
        indices = [cast(int, input_index(argument, "slices")) for argument in node.args[1:]]
        tensors = [self.slices[index] for index in indices]
        is_conv = node.target is functional.conv2d
        layer: nn.Module = build_conv(tensors, dict(node.kwargs)) if is_conv else build_linear(tensors)
        name, is_same = self.names[self.cuts[indices[0]].module], all(self.same_slices[index] for index in indices)
        added = self.add(layer, name if is_same else self.route_name(name))
        if is_same:
            self.layers[node] = added
        return self.graph.call_module(added, (self.value(node.args[0]),))

    def convert_norm(self, node: fx.Node, active: ActiveNorm) -> fx.Node:
        affine = [self.slices[cast(int, input_index(argument, "slices"))] for argument in node.args[2:]]
        norm = build_norm(active.norm, self.route, affine)
        name = self.name_of(node, self.names[active.norm])
        x = self.value(node.args[0])
        if isinstance(active.norm, RouteLayerNorm) and active.norm.channel_dim != -1:
            last = self.graph.call_function(torch.movedim, (x, active.norm.channel_dim, -1))
            return self.graph.call_function(torch.movedim, (self.call(norm, name, last), -1, active.norm.channel_dim))
        return self.call(norm, name, x)

    def cut_head(self, weight: torch.Tensor, bias: torch.Tensor) -> nn.Linear:
        """Returns the head with the columns of the route's active features. A flatten makes several features of a channel."""
        active = self.network.active_features(self.route)
        if active is not None:
            by_channel = weight.view(len(weight), self.derived.num_channels, -1)
            weight = by_channel.index_select(1, active).flatten(1)
        return build_linear([weight, bias])

    def name_of(self, node: fx.Node, name: str) -> str:
        """Returns the name in this graph for a layer of the trunk: another for each route if there are several."""
        return name if node in self.common else self.route_name(name)

    def route_name(self, name: str) -> str:
        return f"route_{self.route_id}.{name}" if self.has_several else name

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
            index = input_index(node, "slices")
            assert index is not None, node
            cut, value = self.cuts[index], self.slices[index].clone()
            is_parameter = isinstance(getattr(cut.module, cut.name), nn.Parameter)
            name = self.name_of(node, f"{self.names[cut.module]}.{cut.name}")
            self.values[node] = self.graph.get_attr(self.add(nn.Parameter(value) if is_parameter else value, name))
        return self.values[node]


def cuts_of(recipes: list[SliceRecipe]) -> list[Cut]:
    """Returns the cut behind every slice: for a folded weight and bias, that of the conv's weight."""
    cuts: list[Cut] = []
    for recipe in recipes:
        assert isinstance(recipe, Cut | Fold)  # the others occur only where values are common to several tasks
        cuts += [recipe] if isinstance(recipe, Cut) else [recipe.weight, recipe.weight]
    return cuts


def dense_network(model: RoutedModel, task_ids: int | Sequence[int]) -> fx.GraphModule:
    """Returns the sub-networks of tasks as a network of its own, in evaluation mode.

    Args:
        model: The routed network, which is left unchanged.
        task_ids: The task, or several different ones.

    Returns:
        A module from normalised images `(batch, 3, height, width)` to logits `(batch, num_classes)`; with several tasks, to a
        tuple of logits in the order of `task_ids`. Each route runs once, and what all routes have in common runs once.

    Raises:
        InputError: There is no such task, or a layer cannot be sliced; names it.
    """
    chosen = [task_ids] if isinstance(task_ids, int) else list(task_ids)
    for task_id in chosen:
        if not 0 <= task_id < len(model.num_classes):
            raise InputError(f"`task_id` should be 0 to {len(model.num_classes) - 1}. Got {task_id}.")
    if not chosen:
        raise InputError("`task_ids` should name at least one task. Got none.")
    by_route: dict[int, list[int]] = {}
    for task_id in chosen:
        by_route.setdefault(model.routes.route_of[task_id], []).append(task_id)
    outputs: dict[int, fx.Node] = {}
    with torch.no_grad():
        builder = DenseBuilder(model, derive(model.trunk, fold=True), list(by_route))
        for route_id, tasks in by_route.items():
            logits = builder.add_route(route_id, *head_rows(model, route_id, tasks))
            sizes = [model.num_classes[task_id] for task_id in tasks]
            outputs |= zip(tasks, [logits] if len(tasks) == 1 else builder.split(logits, sizes), strict=True)
    return builder.build([outputs[task_id] for task_id in chosen])


def head_rows(model: RoutedModel, route_id: int, tasks: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns weight and bias of one head for some tasks of a route, whose classes follow each other in this order."""
    heads, on_route = model.heads_of(route_id), model.routes.tasks_of[route_id]
    sizes = [model.num_classes[task_id] for task_id in on_route]
    weights, biases = (
        dict(zip(on_route, torch.cat([getattr(head, name) for head in heads]).split(sizes), strict=True))
        for name in ("weight", "bias")
    )
    return torch.cat([weights[task_id] for task_id in tasks]), torch.cat([biases[task_id] for task_id in tasks])
