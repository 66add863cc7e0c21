"""Stochastic depth: residual branches that are left out at random while training, image by image (Huang, Sun, Liu, Sedra,
Weinberger, Deep networks with stochastic depth, ECCV 2016, arXiv 1603.09382)."""

import operator
from collections.abc import Iterator

import torch
from torch import fx, nn

from matl_scale.errors import InputError
from matl_scale.vision import StochasticDepth

ADDITIONS = (operator.add, operator.iadd, torch.add, "add", "add_")
LAYERS = (nn.Conv2d, nn.Linear)


def set_drop_path(traced: fx.GraphModule, rate: float) -> None:
    """Lets branch l of L, in the order of the graph, be left out with a probability of `rate` · l / L. A network that has
    `StochasticDepth` modules keeps them where they are; any other gets one at the end of each residual branch.

    Raises:
        InputError: There is no residual branch.
    """
    called = [traced.get_submodule(str(node.target)) for node in traced.graph.nodes if node.op == "call_module"]
    modules = [module for module in called if isinstance(module, StochasticDepth)]
    if not modules and rate:
        modules = [insert_drop(traced, node, branch) for node, branch in find_branches(traced)]
        if not modules:
            raise InputError(
                f"`model.drop_path` should be auto or 0 here: this backbone has no residual branches. Got {rate}."
            )
        traced.graph.lint()
        traced.recompile()
    for number, module in enumerate(modules, start=1):
        module.p = rate * number / len(modules)


def find_branches(traced: fx.GraphModule) -> list[tuple[fx.Node, fx.Node]]:
    """Returns every sum of a shortcut and a residual branch, and the node that ends the branch: the summand with more layers of
    its own."""
    found = []
    for node in traced.graph.nodes:
        summands = [argument for argument in node.args if isinstance(argument, fx.Node)]
        if node.target not in ADDITIONS or len(summands) != 2:
            continue
        first, second = (set(ancestors_of(summand)) for summand in summands)
        lengths = [count_layers(traced, first - second), count_layers(traced, second - first)]
        # where the summands share no input, as patches and their position embedding, neither is a shortcut
        if first & second and lengths[0] != lengths[1]:
            found.append((node, summands[lengths.index(max(lengths))]))
    return found


def ancestors_of(node: fx.Node) -> Iterator[fx.Node]:
    """Yields a node and all that it is computed from."""
    seen, waiting = {node}, [node]
    while waiting:
        current = waiting.pop()
        yield current
        new = [source for source in current.all_input_nodes if source not in seen]
        seen.update(new)
        waiting += new


def count_layers(traced: fx.GraphModule, nodes: set[fx.Node]) -> int:
    called = [traced.get_submodule(str(node.target)) for node in nodes if node.op == "call_module"]
    return sum(isinstance(module, LAYERS) for module in called)


def insert_drop(traced: fx.GraphModule, node: fx.Node, branch: fx.Node) -> StochasticDepth:
    """Puts a module between a branch and the sum `node`: within the module that adds, so that it is frozen with it."""
    scopes = [name for name, _ in node.meta.get("nn_module_stack", {}).values() if name]
    name = ".".join([*scopes[-1:], "drop_path"])
    while name in dict(traced.named_modules()):
        name += "_"
    module = StochasticDepth(p=0.0, mode="row")
    traced.add_submodule(name, module)
    with traced.graph.inserting_before(node):
        dropped = traced.graph.call_module(name, (branch,))
    dropped.meta.update(branch.meta)
    node.replace_input_with(branch, dropped)
    return module
