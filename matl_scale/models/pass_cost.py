"""What the layers of a routed network will cost, before there is a network."""

import numpy as np
from torch import fx

from matl_scale.models.backbones import build_backbone_outline
from matl_scale.models.config import ModelConfig
from matl_scale.models.routing_config import RoutingConfig
from matl_scale.routing.cost import count_layers, pass_cost
from matl_scale.routing.surgery import route_by_spec


def measure_pass(model: ModelConfig, routing: RoutingConfig, num_routes: int, seed: int, image_size: int) -> float:
    """Returns the share of the trunk's multiply-adds that a pass of one of so many routes needs, for images of `image_size`
    pixels; raises `InputError` as `build_model` does."""
    if model.is_heads_alone:
        return 1.0
    return pass_cost(build_routed_outline(model, routing.of_subnetworks(), num_routes, seed), image_size)


def find_layer_at(model: ModelConfig, image_size: int, share: float) -> str:
    """Returns the first layer with units of its own at whose end a pass has made this share of the trunk's multiply-adds."""
    trunk = build_routed_outline(model, RoutingConfig(routes="one", sigma=1.0), num_routes=1, seed=0)
    layers = count_layers(trunk, image_size).layers
    made = np.cumsum([layer.whole for layer in layers])
    routed = [i for i, layer in enumerate(layers) if layer.layer in trunk.meta["streams"]]
    return layers[next((i for i in routed if made[i] >= share * made[-1]), routed[-1])].layer


def build_routed_outline(
    model: ModelConfig, routing: RoutingConfig, num_routes: int, seed: int, closeness: np.ndarray | None = None
) -> fx.GraphModule:
    """Builds a routed trunk whose weights have no values, with the masks that a new run's will have at its start; the strategy
    `affinity` lays them by the `closeness` of routes, on which no cost depends. Raises `InputError` as `build_model` does."""
    spec = routing.mask_spec(num_routes, seed, closeness)
    return route_by_spec(
        build_backbone_outline(model, seed), spec, routing.norm_statistics, input_shape=model.input_shape
    )
