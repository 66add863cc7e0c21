"""Masks that change while a network is trained: all of them are replaced in place, with what follows from them.

Every route keeps as many units of a layer as before, so no shape changes and no graph is compiled again. A *stream* is the
layers that share a mask; it is called as its first conv.
"""

from collections import Counter
from collections.abc import Mapping
from typing import cast

import numpy as np
import torch
from torch import fx, nn

from matl_scale.errors import InputError
from matl_scale.routing.batch_norm import RouteBatchNorm2d
from matl_scale.routing.derive import unit_columns, units_of
from matl_scale.routing.layer_norms import RouteGroupNorm, RouteLayerNorm
from matl_scale.routing.router import TaskRouter
from matl_scale.routing.shared_prefix import module_of
from matl_scale.routing.units import Channels, build_index_table, stack_columns


def stream_units(trunk: fx.GraphModule) -> dict[str, np.ndarray]:
    """Returns the units of every routed stream of a trunk from `route()`, shape `(num_units,)`."""
    return cast(dict[str, np.ndarray], trunk.meta["streams"])


def stream_masks(trunk: fx.GraphModule) -> dict[str, torch.Tensor]:
    """Returns the mask of every routed stream, a copy on the CPU, bool, shape `(num_routes, num_units)`."""
    columns = unit_columns(trunk)
    return {name: stack_columns(columns, units) for name, units in stream_units(trunk).items()}


def check_movable(trunk: fx.GraphModule) -> None:
    """Raises `InputError` if some layer has a part of a stream's units: routes would keep different numbers of its channels as
    soon as masks move."""
    streams = stream_units(trunk)
    stream_of = {unit: name for name, units in streams.items() for unit in units.tolist()}
    for node in trunk.graph.nodes:
        if node.op == "output" or "channels" not in node.meta or node.meta["channels"].units is None:
            continue
        counts = Counter(units_of(node).tolist())
        for name in {stream_of[unit] for unit in counts if unit in stream_of}:
            if len({counts[unit] for unit in streams[name].tolist()}) > 1:
                raise InputError(
                    f"`routing.strategy`: the masks of this backbone cannot move, because `{node.target}` has only a part of "
                    f"the channels of `{name}`. Use the strategy random."
                )


@torch.no_grad()
def set_masks(trunk: fx.GraphModule, masks: Mapping[str, torch.Tensor]) -> None:
    """Replaces all masks of a trunk in place, and what its routers and norms hold of them.

    Batch norms keep the running statistics of the channels that a route keeps; see `RouteBatchNorm2d.follow` for the others.
    What was derived from the trunk, a `Subnetwork` or `AllRoutes`, has to follow (`follow_masks`).

    Args:
        trunk: From `route()`, or a copy of it.
        masks: A mask for every routed stream, bool, shape `(num_routes, num_units)`, with as many units per route as before.
    """
    streams, columns = stream_units(trunk), dict[int, torch.Tensor]()
    assert masks.keys() == streams.keys()
    for name, units in streams.items():
        columns.update(zip(units.tolist(), masks[name].cpu().unbind(dim=1), strict=True))
    changes = []
    for node in trunk.graph.nodes:
        router = module_of(trunk, node)
        if isinstance(router, TaskRouter):
            norm, name = module_of(trunk, node.args[0]), str(node.target)
            mask = stack_columns(columns, units_of(node))
            active = build_index_table(mask, name)
            if isinstance(norm, RouteBatchNorm2d):
                norm.follow(build_index_table(router.mask.cpu(), name), active)
            changes.append((node, router, norm, mask, active))
    for node, router, norm, mask, active in changes:  # only now, because routers and norms of a stream share tensors
        assert active.shape == node.meta["active"].shape
        node.meta["active"] = active  # not in place, because copies of a trunk share it
        replace_buffers(router, mask, active)
        if isinstance(norm, RouteBatchNorm2d | RouteLayerNorm | RouteGroupNorm):
            replace_buffers(norm, mask, active)


def replace_buffers(module: nn.Module, mask: torch.Tensor, active: torch.Tensor) -> None:
    """Copies a mask and its index table into those of the buffers `mask` and `active` that a router or norm has."""
    for name, buffer in module.named_buffers(recurse=False):
        if name in ("mask", "active"):
            buffer.copy_(mask if name == "mask" else active)


def feature_units(trunk: fx.GraphModule) -> np.ndarray:
    """Returns the unit behind every channel of the features, shape `(num_channels,)`; empty if they have no units."""
    output = next(node for node in trunk.graph.nodes if node.op == "output")
    features = output.args[0]
    channels: Channels = features.meta["channels"]
    return np.array([], dtype=np.int64) if channels.units is None else channels.units[:: channels.pixels]
