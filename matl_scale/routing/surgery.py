"""`route()`: puts task routers and per-route norms into any CNN that torch.fx can trace.

The result takes the active route as an argument of `forward`. Module names stay, and with them the keys of the weights.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import fx, nn

from matl_scale.errors import InputError
from matl_scale.routing.affine import Affine, give_own_affine
from matl_scale.routing.batch_norm import RouteBatchNorm2d, Statistics
from matl_scale.routing.drop_path import set_drop_path
from matl_scale.routing.heads import check_heads, spec_of_stream
from matl_scale.routing.layer_norms import RouteGroupNorm, RouteLayerNorm
from matl_scale.routing.layers import choose_sigmas, find_sigma_key
from matl_scale.routing.masks import (
    EarlierMasks,
    MaskSpec,
    Strategy,
    UnitScores,
    draw_masks,
    explain_narrow,
    extend_masks,
    find_most_routes,
    find_split,
    keep_best,
)
from matl_scale.routing.operations import NORM_MODULES
from matl_scale.routing.router import TaskRouter
from matl_scale.routing.tokens import trace_channels
from matl_scale.routing.tracing import INPUT_SHAPE, trace
from matl_scale.routing.units import ChannelMap, Channels, Stream, build_index_table

if TYPE_CHECKING:
    from matl_scale.routing.affinity_masks import Closeness


def route(
    backbone: nn.Module,
    num_routes: int,
    sigma: float,
    *,
    sigma_last: float | None = None,
    sigmas: Mapping[str, float] | None = None,
    layers: Sequence[str] = ("*",),
    start: str = "",
    strategy: Strategy = "random",
    closeness: "Closeness | None" = None,
    statistics: Statistics = "route",
    affine: Affine = "shared",
    align: int = 1,
    seed: int = 0,
    earlier: EarlierMasks | None = None,
) -> fx.GraphModule:
    """Gives every route a sub-network of `backbone`.

    A `TaskRouter` follows every conv, after its norm if it has one and before the activation. Convs that write to one
    residual stream share one mask, and so do a depthwise conv and its input, so that a sub-network is closed.

    Args:
        backbone: A CNN from images `(batch, 3, height, width)` to features `(batch, num_features)`. Not changed;
            its parameters are copied.
        num_routes: The number of routes, R.
        sigma: Sharing ratio: the fraction of a layer's units that a route keeps active.
        sigma_last: If given, σ goes linearly with depth from `sigma` to this.
        sigmas: Sharing ratios of some layers, by patterns of module names; the last one that matches counts.
        layers: Patterns of the modules whose convs are routed. The others keep all units for all routes, and their norms have
            one row of statistics.
        start: A pattern: convs before the first one that it matches are not routed.
        strategy: How masks are drawn: `random`, `partition`, or `affinity`, which needs `closeness` for new masks; with
            `magnitude` all units are active, and those of `roaming` are random ones at first.
        closeness: How close routes are to each other.
        statistics: Whether running statistics belong to each `route` or are `shared`; with `step`, images of several routes are
            also normalised together in training.
        affine: Whether norms in routed layers use affine weights that are `shared`, or those of each `route`, which `forward` is
            then given (`matl_scale.routing.affine.RouteAffine` holds them).
        align: The number of a layer's active units is a multiple of this (8 suits the matrix units of GPUs).
        seed: The seed of the masks.
        earlier: Masks that routes keep from another network with this backbone.

    Returns:
        A module with `forward(x, route, affine=None)`, where `route` are integers of shape `(1,)`, or `(batch,)` in evaluation
        mode and with the statistics of a step, and `affine` are the affine weights of the norms in routed layers if these belong
        to routes.

    Raises:
        InputError: The backbone cannot be traced or followed (the message names the module), σ leaves a layer without units,
            or `strategy` and `closeness` do not fit together.
    """
    if strategy == "affinity" and closeness is None and earlier is None:
        raise InputError(
            "`closeness` should say how close routes are to each other, with the strategy affinity. Got none."
        )
    spec = MaskSpec(
        num_routes=num_routes,
        sigma=sigma,
        sigma_last=sigma_last,
        sigmas=sigmas or {},
        layers=layers,
        start=start,
        strategy=strategy,
        closeness=closeness,
        align=align,
        seed=seed,
    )
    return route_by_spec(backbone, spec, statistics, earlier, affine)


def route_by_spec(
    backbone: nn.Module,
    spec: MaskSpec,
    statistics: Statistics,
    earlier: EarlierMasks | UnitScores | None = None,
    affine: Affine = "shared",
    drop_path: float | None = None,
    input_shape: tuple[int, ...] | None = None,
) -> fx.GraphModule:
    """Does what `route()` does, with masks drawn by `spec`, or by what an earlier network says of its units. `drop_path` is a
    rate of stochastic depth (see `set_drop_path`); None leaves the backbone's own. `input_shape` is that of an input that is no
    image, without the batch."""
    routed = trace(backbone, input_shape)
    routed.meta[INPUT_SHAPE] = input_shape
    if drop_path is not None:
        set_drop_path(routed, drop_path)
    channels = trace_channels(routed)
    columns = draw_stream_masks(channels, spec, earlier)
    insert_routers(routed, channels, columns, spec.num_routes, statistics, affine)
    # the units of every routed stream, by its name, for masks that move
    routed.meta["streams"] = {s.name: s.units for s in channels.streams if columns.keys() & set(s.units.tolist())}
    return routed


def draw_stream_masks(
    channels: ChannelMap, spec: MaskSpec, earlier: EarlierMasks | UnitScores | None
) -> dict[int, torch.Tensor]:
    """Draws the mask of each stream that is routed. Returns the mask column of every unit in it: bool, shape `(num_routes,)`."""
    columns: dict[int, torch.Tensor] = {}
    chosen = zip(channels.streams, choose_sigmas(channels.streams, channels.convs, spec), strict=True)
    routed = [(stream, sigma) for stream, sigma in chosen if sigma is not None]
    check_heads(routed, spec)
    if spec.strategy == "partition" and not earlier:
        check_partition(spec, routed)
    before = earlier_columns(channels, earlier, {unit for stream, _ in routed for unit in stream.units.tolist()})
    for stream, sigma in routed:
        num_units, own = len(stream.units), spec_of_stream(stream, sigma, spec)
        key = find_sigma_key(stream, spec)
        if spec.strategy != "partition" and spec.align == 1 and round(sigma * num_units) == 0:
            raise InputError(
                f"`routing.{key}` = {sigma} keeps no unit of layer `{stream.name}`, which has {num_units}. "
                f"It should be at least {1 / num_units:.3g}, or the network wider (`model.width`)."
            )
        if earlier:
            saved = torch.stack([before[unit] for unit in stream.units.tolist()], dim=1)
            if isinstance(earlier, UnitScores):
                mask = keep_best(saved, own.count_active(num_units))
            else:
                mask = extend_masks(own, earlier, saved, stream.name)
        else:
            mask = draw_masks(own, num_units, stream.name)
        columns.update(zip(stream.units.tolist(), mask.unbind(dim=1), strict=True))
    return columns


def check_partition(spec: MaskSpec, routed: Sequence[tuple[Stream, float]]) -> None:
    """Raises `NarrowLayerError` for the layer that allows the fewest routes, if these are too few."""
    specs = [(spec_of_stream(stream, sigma, spec), len(stream.units), stream.name) for stream, sigma in routed]
    narrow = [each for each in specs if each[0].align <= each[1] and find_split(each[0], each[1]) is None]
    if narrow:
        own, num_units, name = min(narrow, key=lambda each: (find_most_routes(each[0], each[1]), each[1]))
        raise explain_narrow(own, num_units, name)


def earlier_columns(
    channels: ChannelMap, earlier: EarlierMasks | UnitScores | None, routed: set[int]
) -> dict[int, torch.Tensor]:
    """Returns the column in an earlier network's masks, or scores, of every unit that is routed; empty if there is none.

    Raises:
        InputError: The earlier network has other layers.
    """
    columns: dict[int, torch.Tensor] = {}
    for node in channels.routed if earlier else []:
        assert earlier is not None
        units = channels.units(node).tolist()
        if routed.isdisjoint(units):
            continue
        found = earlier.scores if isinstance(earlier, UnitScores) else earlier.masks
        mask = found.get(router_name(str(node.target)))
        if mask is None or mask.shape[1] != len(units):
            raise InputError(
                f"The network to start from should have {len(units)} routed units in layer `{node.target}`, as this one has. "
                "Use its `model` and `routing` settings."
            )
        columns.update(zip(units, mask.unbind(dim=1), strict=True))
    return columns


def router_name(module: str) -> str:
    """Returns the name of the router behind a module."""
    return module.replace(".", "_")


def insert_routers(
    routed: fx.GraphModule,
    channels: ChannelMap,
    columns: dict[int, torch.Tensor],
    num_routes: int,
    statistics: Statistics,
    affine: Affine,
) -> None:
    """Edits the graph: adds the arguments `route` and `affine`, replaces norms, and puts a router behind every routed node.
    Nodes without a routed unit get none, and their norms share affine weights, batch norms also statistics.

    Afterwards `meta["channels"]` of every node says which units its channels are, and `meta["active"]` of a router holds
    the index table of each route's active channels.
    """
    graph = routed.graph
    image = next(node for node in graph.nodes if node.op == "placeholder")
    with graph.inserting_after(image):
        route = graph.placeholder("route")
    with graph.inserting_after(route):
        weights = graph.placeholder("affine", default_value=None)
    num_norms = 0
    routers = nn.ModuleDict()
    routed.add_module("routers", routers)
    # so that tensors of one stream share memory; buffers may change in place, the last of the three is the graph's own
    masks: dict[bytes, tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = {}
    for node, found in channels.channels.items():
        node.meta["channels"] = found
    for node in channels.routed:
        name, units, dim = str(node.target), channels.units(node), channels.channels[node].dim
        module = routed.get_submodule(name)
        key = router_name(name)
        if key in routers:
            raise InputError(
                f"This backbone cannot be routed: module `{name}`: it is called twice, or shares its name but for dots."
            )
        if not any(unit in columns for unit in units.tolist()):
            if isinstance(module, nn.BatchNorm2d):
                everywhere = torch.arange(len(units))[None]
                of_all: Statistics = "step" if statistics == "step" else "shared"
                routed.set_submodule(name, RouteBatchNorm2d(module, everywhere, of_all))
                node.args = (node.args[0], route)
            continue
        if units.tobytes() not in masks:
            everywhere = torch.ones(num_routes, dtype=torch.bool)
            mask = torch.stack([columns.get(unit, everywhere) for unit in units.tolist()], dim=1)
            active = build_index_table(mask, name)
            masks[units.tobytes()] = (mask, active, active.clone())
        mask, active, table = masks[units.tobytes()]
        if isinstance(module, NORM_MODULES):
            norm = build_route_norm(module, mask, active, statistics, dim)
            routed.set_submodule(name, norm)
            node.args = (node.args[0], route)
            if affine == "route":
                give_own_affine(norm, num_norms)
                node.args = (node.args[0], route, weights)
                num_norms += 1
        routers[key] = TaskRouter(mask, dim)
        with graph.inserting_after(node):
            router = graph.call_module(f"routers.{key}", (node, route))
        node.replace_all_uses_with(router, lambda user, router=router: user is not router)  # type: ignore[misc]
        router.meta.update(channels=channels.channels[node], active=table)
    graph.lint()
    routed.recompile()


def build_route_norm(
    norm: nn.Module, mask: torch.Tensor, active: torch.Tensor, statistics: Statistics, dim: int
) -> nn.Module:
    if isinstance(norm, nn.BatchNorm2d):
        return RouteBatchNorm2d(norm, active, statistics)
    if isinstance(norm, nn.LayerNorm):
        return RouteLayerNorm(norm, mask, dim)
    assert isinstance(norm, nn.GroupNorm)
    return RouteGroupNorm(norm, mask, active)


def pass_through(num_features: int) -> fx.GraphModule:
    """Returns a trunk without layers, as `route()` would return it: heads on so many features are all that there is."""
    graph = fx.Graph()
    features = graph.placeholder("features")
    features.meta["channels"] = Channels(units=None)
    graph.placeholder("route")
    graph.placeholder("affine", default_value=None)
    graph.output(features)
    trunk = fx.GraphModule({}, graph, "PassThrough")
    trunk.meta[INPUT_SHAPE] = (num_features,)
    return trunk


def active_share(trunk: fx.GraphModule) -> tuple[float, float]:
    """Returns the smallest and the largest fraction of a layer's units that are active for a route: the σ after rounding."""
    masks = [module.mask for module in trunk.modules() if isinstance(module, TaskRouter)]
    shares = [float(mask[0].float().mean()) for mask in masks] or [1.0]
    return min(shares), max(shares)
