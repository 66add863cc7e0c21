"""Masks that move by the book: a network is built anew with the moved masks, and gets its values channel by channel."""

from collections.abc import Callable

import torch
from torch import fx

from matl_scale.models.network import RoutedModel
from matl_scale.routing.batch_norm import RouteBatchNorm2d
from matl_scale.routing.masks import EarlierMasks
from matl_scale.routing.move import feature_units, stream_units
from matl_scale.routing.router import TaskRouter
from matl_scale.routing.surgery import router_name

Masks = dict[str, torch.Tensor]


def masks_by_router(trunk: fx.GraphModule, masks: Masks) -> EarlierMasks:
    """Returns masks by stream as those of the trunk's routers."""
    columns = {
        unit: masks[name][:, index]
        for name, units in stream_units(trunk).items()
        for index, unit in enumerate(units.tolist())
    }
    found = {}
    for node in trunk.graph.nodes:
        if node.op == "call_module" and isinstance(router := trunk.get_submodule(node.target), TaskRouter):
            everywhere = torch.ones(len(router.mask), dtype=torch.bool)
            units = node.meta["channels"].units.tolist()
            key = str(node.target).removeprefix("routers.")
            found[key] = torch.stack([columns.get(unit, everywhere) for unit in units], dim=1)
            assert key == router_name(key)
    num_routes = len(next(iter(masks.values())))
    return EarlierMasks(masks=found, route_ids=range(num_routes), route_names=[str(i) for i in range(num_routes)])


@torch.no_grad()
def copy_values(old: fx.GraphModule, new: fx.GraphModule) -> None:
    """Copies weights, and the running statistics of every route and channel: a channel that a route gains gets the mean over the
    routes that have it and were trained, or mean 0 and variance 1."""
    for parameter, value in zip(new.parameters(), old.parameters(), strict=True):
        parameter.copy_(value)
    for name, norm in new.named_modules():
        if not isinstance(norm, RouteBatchNorm2d):
            continue
        before = old.get_submodule(name)
        assert isinstance(before, RouteBatchNorm2d)
        norm.num_updates.copy_(before.num_updates)
        if norm.statistics == "shared":
            norm.running.copy_(before.running)
            continue
        table = before.active.tolist()
        known = {
            (route, channel): before.running[route, :, index]
            for route, channels in enumerate(table)
            for index, channel in enumerate(channels)
        }
        for route, channels in enumerate(norm.active.tolist()):
            for index, channel in enumerate(channels):
                others = [
                    known[other, channel]
                    for other in range(len(table))
                    if (other, channel) in known and before.num_updates[other, 0] > 0
                ]
                mean = sum(others) / len(others) if others else torch.tensor([0.0, 1.0])
                norm.running[route, :, index] = known.get((route, channel), mean)


@torch.no_grad()
def move_reference(
    model: RoutedModel,
    optimizer: torch.optim.Optimizer,
    before: Masks,
    after: Masks,
    build: Callable[[EarlierMasks], tuple[RoutedModel, torch.optim.Optimizer]],
) -> tuple[RoutedModel, torch.optim.Optimizer]:
    """Returns network and optimizer after a move from the masks `before` to `after`; `build` makes new ones."""
    moved, new_optimizer = build(masks_by_router(model.trunk, after))
    copy_values(model.trunk, moved.trunk)
    moved.heads.load_state_dict(model.heads.state_dict())
    new_optimizer.load_state_dict(optimizer.state_dict())
    features = feature_units(model.trunk).tolist()
    for name, units in stream_units(model.trunk).items():
        for route in range(model.routes.num_routes):
            for index, unit in enumerate(units.tolist()):
                if after[name][route, index] and not before[name][route, index]:
                    columns = [column for column, found in enumerate(features) if found == unit]
                    for head in moved.heads_of(route):
                        moments = new_optimizer.state.get(head.weight, {}).values()
                        for value in (head.weight, *(value for value in moments if value.ndim == 2)):
                            value[:, columns] = 0
    return moved, new_optimizer
