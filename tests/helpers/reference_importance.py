"""Which units matter to a route, by the book: Σ over a route's slots of |∂L/∂gate|, and a network carved by hand."""

from dataclasses import replace

import torch

from matl_scale.models.network import RoutedModel, build_model
from matl_scale.models.routing_config import RoutingConfig
from matl_scale.routing.batch_norm import route_norms
from matl_scale.routing.masks import EarlierMasks
from matl_scale.routing.router import TaskRouter
from matl_scale.train.config import Config

Importance = list[dict[str, torch.Tensor]]  # of each route: by router, shape `(num_units,)`


def routers_of(model: RoutedModel) -> dict[str, TaskRouter]:
    return {name: module for name, module in model.trunk.routers.named_children() if isinstance(module, TaskRouter)}  # type: ignore[union-attr, operator]


def find_tied(config: Config, model: RoutedModel) -> dict[str, list[str]]:
    """Returns for each router those of its stream: wherever masks are drawn, they have the same."""
    random_masks = replace(config.routing, strategy="random", dense_share="auto")
    drawn = [routers_of(build(config, model, random_masks, seed=seed)) for seed in range(8)]
    return {
        name: [other for other in drawn[0] if all(torch.equal(each[other].mask, each[name].mask) for each in drawn)]
        for name in drawn[0]
    }


def build(
    config: Config, like: RoutedModel, routing: RoutingConfig, earlier: EarlierMasks | None = None, seed: int = 0
) -> RoutedModel:
    return build_model(config.model, routing, like.num_classes, seed, 16, like.routes, earlier)


def gates_of(model: RoutedModel, route: int, gradients: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns, by router, γ·∂L/∂γ + β·∂L/∂β of the batch norm in front of it, for networks in which each has one."""
    gates = {}
    for name, module in model.trunk.named_modules():
        if (router := name.replace(".", "_")) in routers_of(model):
            if model.affine is None:
                products = [
                    value * gradients[f"trunk.{name}.{key}"] for key, value in module.named_parameters(recurse=False)
                ]
            else:
                row = model.affine.rows[route] * gradients[f"affine.rows.{route}"]
                start = sum(model.affine.sizes[: module.affine_index])  # type: ignore[misc]
                products = list(row[start : start + 2 * module.num_features].view(2, -1))  # type: ignore[operator]
            gates[router] = products[0] + products[1]
    return gates


def add_slot(importance: Importance, tied: dict[str, list[str]], route: int, gates: dict[str, torch.Tensor]) -> None:
    for router, others in tied.items():
        together = sum((gates[other] for other in others), torch.zeros_like(gates[router]))
        importance[route][router] = importance[route].get(router, torch.zeros_like(together)) + together.abs()


def carve(config: Config, dense: RoutedModel, importance: Importance) -> RoutedModel:
    """Returns the network whose routes keep their best units, with the weights and statistics of `dense`."""
    masks = {}
    for router, module in routers_of(dense).items():
        num_units = module.mask.shape[1]
        mask = torch.zeros(dense.routes.num_routes, num_units, dtype=torch.bool)
        for route, scores in enumerate(importance):
            values = [float(f"{value:.9e}") for value in scores[router].tolist()]
            ranked = sorted(range(num_units), key=lambda unit, values=values: (-values[unit], unit))  # type: ignore[misc]
            mask[route, ranked[: round(config.routing.sigma * num_units)]] = True
        masks[router] = mask
    names = dense.routes.names
    model = build(
        config, dense, config.routing, EarlierMasks(masks=masks, route_ids=range(len(names)), route_names=names)
    )
    parameters = dict(dense.named_parameters())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(parameters[name])
    for before, after in zip(route_norms(dense), route_norms(model), strict=True):
        after.num_updates.copy_(before.num_updates)
        for route, units in enumerate(after.active.tolist()):
            after.running[route] = before.running[route][:, units]
    return model
