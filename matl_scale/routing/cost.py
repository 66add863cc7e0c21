"""What a route's forward pass costs beside that of the whole trunk."""

from math import prod

from torch import fx, nn

from matl_scale.routing.derive import unit_columns, units_of
from matl_scale.routing.shared_prefix import module_of


def pass_cost(trunk: fx.GraphModule) -> float:
    """Returns the share of the trunk's multiplications that a route's sub-network needs, over convs and linear layers.

    `trunk` comes from `route()`. All routes need as many.
    """
    columns = unit_columns(trunk)

    def active(node: fx.Node) -> float:
        """The share of a value's channels that a route keeps; 1 for the image."""
        units = None if node.meta["channels"].units is None else units_of(node).tolist()
        return 1.0 if units is None else sum(bool(columns[u][0]) if u in columns else 1 for u in units) / len(units)

    whole = part = 0.0
    for node in trunk.graph.nodes:
        module = module_of(trunk, node)
        if not isinstance(module, nn.Conv2d | nn.Linear):
            continue
        is_grouped = isinstance(module, nn.Conv2d) and module.groups > 1
        pixels = prod(node.meta["tensor_meta"].shape[2:]) if isinstance(module, nn.Conv2d) else 1
        cost = module.weight.numel() * pixels
        whole += cost
        part += cost * active(node) * (1.0 if is_grouped else active(node.all_input_nodes[0]))
    return part / whole
