"""What a pass of a route will cost beside the plain network, before there is a network."""

from typing import cast

import numpy as np
from torch import fx

from matl_scale.models.backbones import build_backbone_outline
from matl_scale.models.config import ModelConfig
from matl_scale.models.routing_config import RoutingConfig
from matl_scale.routing.batch_norm import Statistics
from matl_scale.routing.cost import pass_cost
from matl_scale.routing.surgery import route_by_spec


def measure_pass(model: ModelConfig, routing: RoutingConfig, num_routes: int, seed: int, image_size: int) -> float:
    """Returns the share of the trunk's multiply-adds that a pass of one of so many routes needs, for images of `image_size`
    pixels; raises `InputError` as `build_model` does."""
    if model.is_heads_alone:
        return 1.0
    return pass_cost(build_routed_outline(model, routing.of_subnetworks(), num_routes, seed), image_size)


def build_routed_outline(
    model: ModelConfig, routing: RoutingConfig, num_routes: int, seed: int, closeness: np.ndarray | None = None
) -> fx.GraphModule:
    """Builds a routed trunk whose weights have no values, with the masks that a new run's will have at its start; the strategy
    `affinity` lays them by the `closeness` of routes, on which no cost depends. Raises `InputError` as `build_model` does."""
    spec = routing.mask_spec(num_routes, seed, closeness)
    statistics = cast(Statistics, routing.statistics)
    return route_by_spec(build_backbone_outline(model, seed), spec, statistics, input_shape=model.input_shape)
