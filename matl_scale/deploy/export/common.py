"""What of a derived network is the same for all routes: a network of several routes computes it once.

That is the part in front of the first routed layer, and whatever else reads no route's slices or statistics.
"""

import operator
from typing import cast

import torch
from torch import fx, nn
from torch.nn import functional

from matl_scale.routing.batch_norm import RouteBatchNorm2d
from matl_scale.routing.derive import ActiveNorm, Derived, input_index
from matl_scale.routing.shared_prefix import module_of
from matl_scale.routing.slicing import Fold, SliceRecipe, is_common
from matl_scale.vision import StochasticDepth

WITHOUT_EFFECT = (nn.Identity, nn.modules.dropout._DropoutNd, StochasticDepth)  # in evaluation mode
VIEWS = (torch.flatten, torch.permute, "flatten", "permute", "contiguous", functional.dropout)  # may return their input
IN_PLACE = (operator.iadd, operator.imul, "add_", "mul_")


def find_repeated(derived: Derived) -> set[fx.Node]:
    """Returns the nodes of the dense graph whose values are the same for every route, and would be computed again for each."""
    unsafe: set[fx.Node] = set()
    while True:
        common = nodes_without_route(derived, unsafe)
        changed = {node for node in derived.dense.graph.nodes if changes_common(derived, node, common)}
        if not changed:
            return common
        unsafe |= {owner_of(derived, cast(fx.Node, node.args[0])) for node in changed}


def nodes_without_route(derived: Derived, unsafe: set[fx.Node]) -> set[fx.Node]:
    """Returns the nodes that depend on no route, nor on the nodes in `unsafe`."""
    same = common_slices(derived.recipes)
    common: set[fx.Node] = set()
    for node in derived.dense.graph.nodes:
        index = input_index(node, "slices")
        if node in unsafe:
            continue
        if index is not None:
            found = same[index]
        elif node.op == "placeholder":
            found = node.target == "tensors"
        else:
            module = module_of(derived.dense, node)
            norm = module.norm if isinstance(module, ActiveNorm) else None
            found = not isinstance(norm, RouteBatchNorm2d) or norm.statistics == "shared"
            # the other norms read of a route only which channels are active, and their slices say whether all are
            inputs = [value for value in node.all_input_nodes if norm is None or value.target != "route"]
            found = found and common.issuperset(inputs)
        if found:
            common.add(node)
    return common


def common_slices(recipes: list[SliceRecipe]) -> list[bool]:
    """Returns for every slice whether it is the same for all routes."""
    found: list[bool] = []
    for recipe in recipes:
        found += [is_common(recipe)] * (2 if isinstance(recipe, Fold) else 1)
    return found


def changes_common(derived: Derived, node: fx.Node, common: set[fx.Node]) -> bool:
    """Returns whether a node changes a common value in place that other nodes read, or changes it for one route: routes that are
    computed later would then read something else."""
    if not works_in_place(derived, node) or node.args[0] not in common:
        return False
    value, is_alone = cast(fx.Node, node.args[0]), node in common
    owner = owner_of(derived, value)
    while is_alone:
        is_alone = len(value.users) == 1
        if value is owner:
            break
        value = cast(fx.Node, value.args[0])
    return not is_alone


def owner_of(derived: Derived, node: fx.Node) -> fx.Node:
    """Returns the node that made the tensor which a node returns, perhaps as a view of it."""
    while (
        isinstance(module_of(derived.dense, node), (*WITHOUT_EFFECT, nn.Flatten))
        or node.target in VIEWS
        or works_in_place(derived, node)
    ):
        node = cast(fx.Node, node.args[0])
    return node


def works_in_place(derived: Derived, node: fx.Node) -> bool:
    module = module_of(derived.dense, node)
    if module is not None:
        return getattr(module, "inplace", False) is True
    is_flagged = any(value is True for value in (*node.args, *node.kwargs.values()))  # as in `functional.relu(x, True)`
    return node.target in IN_PLACE or (is_flagged and isinstance(node.args[0], fx.Node))
