"""How deep in a trunk each parameter lies, counted in blocks.

A block is the outermost module with a forward of its own: a residual block, say, in a stage that is an `nn.Sequential`. A conv or
linear layer outside of such modules is a block by itself, and what else has weights there, as a norm, belongs to the block before
it. Modules that hold the whole trunk are none.
"""

from collections.abc import Iterator, Sequence

from torch import fx, nn

from matl_scale.vision import models

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict, models.vision_transformer.Encoder)
LAYERS = (nn.Conv2d, nn.Linear)

Scope = tuple[str, type[nn.Module]]  # name and class of a module


def number_blocks(trunk: fx.GraphModule) -> dict[str, int]:
    """Returns for every parameter of a trunk from `route()` the number of its block, from 0, in the order of the graph."""
    nodes = [(node, names) for node in trunk.graph.nodes if (names := parameter_names(trunk, node))]
    scopes = {node: list(scopes_of(node)) for node, _ in nodes}
    around_all = set.intersection(*(set(found) for found in scopes.values())) if scopes else set()
    numbers: dict[str, int] = {}  # of blocks, by the name of their module
    found: dict[str, int] = {}
    for node, names in nodes:
        block = find_block([scope for scope in scopes[node] if scope not in around_all])
        is_layer = node.op == "call_module" and isinstance(trunk.get_submodule(str(node.target)), LAYERS)
        if block or is_layer or not numbers:
            number = numbers.setdefault(block or str(node.target), len(numbers))
        else:
            number = len(numbers) - 1
        for name in names:
            found.setdefault(name, number)
    return found


def find_block(scopes: Sequence[Scope]) -> str:
    """Returns the name of the outermost module around a node that is no container; empty if there is none."""
    return next((name for name, kind in scopes if not issubclass(kind, CONTAINERS)), "")


def scopes_of(node: fx.Node) -> Iterator[Scope]:
    """Yields the modules around a node, from the outermost, without the one that it calls."""
    for name, kind in node.meta.get("nn_module_stack", {}).values():
        if name != node.target:
            yield name, kind


def parameter_names(trunk: fx.GraphModule, node: fx.Node) -> list[str]:
    """Returns the names of the trunk's parameters that a node uses."""
    target = str(node.target)
    if node.op == "get_attr":
        owner, _, name = target.rpartition(".")
        return [target] if name in dict(trunk.get_submodule(owner).named_parameters(recurse=False)) else []
    if node.op != "call_module":
        return []
    return [f"{target}.{name}" for name, _ in trunk.get_submodule(target).named_parameters()]
