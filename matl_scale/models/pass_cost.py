"""What a pass of a route will cost beside the plain network, before there is a network."""

from dataclasses import replace
from typing import cast

from matl_scale.models.backbones import ModelConfig, build_backbone
from matl_scale.models.routing_config import RoutingConfig
from matl_scale.routing.batch_norm import Statistics
from matl_scale.routing.cost import pass_cost
from matl_scale.routing.surgery import route_by_spec


def measure_pass(model: ModelConfig, routing: RoutingConfig, num_routes: int, seed: int) -> float:
    """Returns the share of the trunk's multiplications that a pass of one of so many routes needs; raises `InputError` as
    `build_model` does."""
    backbone = build_backbone(replace(model, pretrained=False), seed)
    spec = routing.mask_spec(num_routes, seed)
    return pass_cost(route_by_spec(backbone, spec, cast(Statistics, routing.statistics)))
