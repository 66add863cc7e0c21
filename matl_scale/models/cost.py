"""Counts the multiply-adds of a network for one image: per layer, per route, of a training step, and for all tasks.

What counts is a route's dense sub-network: the active units of each layer, and the heads' columns of its active features. That
is what sub-network execution and export compute; masked execution computes the whole trunk, and counts the same here.
"""

from collections.abc import Sequence
from dataclasses import replace

from matl_scale.errors import InputError
from matl_scale.models.network import RoutedModel
from matl_scale.routing.cost import LayerCost, TrunkCosts, count_layers
from matl_scale.routing.layers import matches_any


def layer_costs(model: RoutedModel, route_id: int) -> list[LayerCost]:
    """Returns the cost of every layer that a route runs: of the trunk in the order of the graph, then of its heads.

    Raises:
        InputError: The network does not know the size of its images.
    """
    trunk = trunk_costs(model)
    heads = zip(model.routes.heads_of[route_id], model.heads_of(route_id), strict=True)
    return [
        *trunk.layers,
        *(
            LayerCost(
                layer=f"heads.{head_id}",
                whole=head.out_features * trunk.num_features,
                active=head.out_features * trunk.num_active_features,
                before=trunk.modules,
                is_common=False,
            )
            for head_id, head in heads
        ),
    ]


def count_forward(model: RoutedModel, route_id: int) -> int:
    """Returns the multiply-adds of one image's forward pass on a route; raises `InputError` as `layer_costs` does."""
    return sum(layer.active for layer in layer_costs(model, route_id))


def count_training(model: RoutedModel, route_id: int, frozen: Sequence[str] = ()) -> int:
    """Returns the multiply-adds per image of one training step on a route, forward and backward, where the trunk's modules that a
    pattern of `frozen` matches stay as they are (`model.freeze`); raises `InputError` as `layer_costs` does."""
    trunk = trunk_costs(model)
    heads = layer_costs(model, route_id)[len(trunk.layers) :]  # which no pattern means
    trained = frozenset(module for module in trunk.modules if not matches_any(module, frozen))
    of_heads = sum(replace(head, before=trained).training() for head in heads)
    return sum(layer.training(frozen) for layer in trunk.layers) + of_heads


def count_all_tasks(model: RoutedModel) -> int:
    """Returns the multiply-adds of one image's forward pass for all tasks; raises `InputError` as `layer_costs` does.

    As in evaluation and prediction, layers whose output is the same for every route run once, with all their units.
    """
    once = sum(layer.whole for layer in trunk_costs(model).layers if layer.is_common)
    routes = (layer_costs(model, route_id) for route_id in range(model.routes.num_routes))
    return once + sum(layer.active for layers in routes for layer in layers if not layer.is_common)


def trunk_costs(model: RoutedModel) -> TrunkCosts:
    """Returns what the trunk's layers cost for an image of the size that the network is built for."""
    if model.image_size is None:
        raise InputError("The network should know the size of its images to be counted: build it with `build_model`.")
    return count_layers(model.trunk, model.image_size)
