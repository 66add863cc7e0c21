"""What all routes have in common in evaluation: the part of a routed trunk that depends on no route's units or statistics.

A max pool behind the first norm can be part of it. A batch norm is monotonic in each channel and a ReLU never decreases, so
the maximum may be taken first: the largest values of a window where the norm's weight is positive, the smallest where it is
negative. Both are the same for every route.
"""

from torch import fx, nn

from matl_scale.routing.batch_norm import RouteBatchNorm2d
from matl_scale.routing.router import TaskRouter

Source = tuple[fx.Node, fx.Node | None]  # a node of the trunk's graph, and the pool that is moved before its norm


def find_common(trunk: fx.GraphModule) -> set[fx.Node]:
    """Returns the nodes whose values are the same for every route; they have all channels."""
    common: set[fx.Node] = set()
    for node in trunk.graph.nodes:
        if node.op in ("placeholder", "get_attr"):
            common.add(node)
        elif node.op == "output" or node.meta["channels"].pixels > 1:
            continue  # the number of features that a flatten makes of a channel depends on the size of the images
        elif all(source in common for source in node.all_input_nodes):
            module = module_of(trunk, node)
            if isinstance(module, TaskRouter):
                is_common = bool(module.mask.all())
            elif isinstance(module, RouteBatchNorm2d):
                keeps_all = module.active.shape[1] == module.num_features
                is_common = module.statistics == "shared" and module.affine_index is None and keeps_all
            else:
                # the other norms with the argument `route` depend on its mask
                is_common = all(source.target != "route" for source in node.all_input_nodes)
            if is_common:
                common.add(node)
    return common


def find_batches(trunk: fx.GraphModule) -> set[fx.Node]:
    """Returns the nodes whose values have something of each image: not the number of images, nor what is made of it and of
    parameters."""
    batches = set(trunk.graph.find_nodes(op="placeholder")[:1])
    for node in trunk.graph.nodes:
        if node.target != "size" and batches.intersection(node.all_input_nodes):
            batches.add(node)
    return batches


def find_early_pools(trunk: fx.GraphModule, common: set[fx.Node]) -> dict[fx.Node, fx.Node]:
    """Returns the batch norms of common values that are followed by just a router, a ReLU and a max pool, with the pool."""
    found = {}
    for norm in trunk.graph.nodes:
        if norm in common or not isinstance(module_of(trunk, norm), RouteBatchNorm2d) or norm.args[0] not in common:
            continue
        chain = [norm]
        for kind in (TaskRouter, nn.ReLU, nn.MaxPool2d):
            users = list(chain[-1].users)
            if len(users) != 1 or not isinstance(module_of(trunk, users[0]), kind):
                break
            chain.append(users[0])
        else:
            found[norm] = chain[-1]
    return found


def module_of(trunk: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    """Returns the module that a node calls; None if it calls none."""
    return trunk.get_submodule(str(node.target)) if node.op == "call_module" else None
