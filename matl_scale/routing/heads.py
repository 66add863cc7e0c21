"""How σ and `align` apply to attention heads: a route keeps whole heads, of which a layer has few."""

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import dropwhile
from typing import cast

from torch import fx, nn

from matl_scale.errors import InputError
from matl_scale.routing.attention import QKV, HeadAttention
from matl_scale.routing.layers import find_sigma_key, matches
from matl_scale.routing.masks import MaskSpec
from matl_scale.routing.tracing import trace_graph
from matl_scale.routing.units import Stream

ROUNDED = 0.005  # a σ in two decimals differs by so much from the share that is meant


def check_heads(routed: Sequence[tuple[Stream, float]], spec: MaskSpec) -> None:
    """Raises `InputError` if the heads of a layer do not split by the σ that is given for it; offers the nearest one by which all
    of them do. A σ that goes with depth is rounded to whole heads, and so is the share that routes have in common (`partition`).

    Args:
        routed: The streams that are routed, each with its σ.
        spec: How masks are drawn.
    """
    if spec.strategy == "partition" or spec.sigma_last is not None:
        return
    for stream, sigma in routed:
        num_heads = len(stream.units)
        if stream.head_dim and not splits(num_heads, sigma):
            key = find_sigma_key(stream, spec)
            counts = [len(other.units) for other, value in routed if other.head_dim and value == sigma]
            near = find_nearest_sigma(counts, sigma)
            raise InputError(
                f"`routing.{key}` = {sigma:g} does not split the {num_heads} heads of `{stream.name}`: a route keeps whole "
                f"heads. The nearest σ that does, here and in the other attention layers with this σ, is {near:g}; "
                "`routing.sigmas` can give them a σ of their own."
            )


def splits(num_heads: int, sigma: float) -> bool:
    """Returns whether σ is a share of whole heads, at least one."""
    kept = round(sigma * num_heads)
    return kept >= 1 and abs(kept / num_heads - sigma) <= ROUNDED


def find_nearest_sigma(counts: Sequence[int], sigma: float) -> float:
    """Returns the σ nearest to one, in three decimals, by which all of some numbers of heads split."""
    parts = math.gcd(*counts)
    kept = min(range(1, parts + 1), key=lambda number: abs(number / parts - sigma))
    return round(kept / parts, 3)


def fit_sigma(backbone: nn.Module, sigma: float, start: str = "") -> float:
    """Returns the σ nearest to one by which the heads of every attention layer of a backbone split, or of those from the layer
    `start` on; σ itself if there is none. Below 1 it stays below 1 if it can: with 1, routes would have all units.

    Raises:
        InputError: The backbone cannot be traced.
    """
    graph = trace_graph(copy.deepcopy(backbone))
    counts = set(count_heads(graph, start))
    if all(splits(count, sigma) for count in counts):
        return sigma
    parts = math.gcd(*counts)
    return find_nearest_sigma([parts], sigma if parts == 1 else min(sigma, 1 - 1 / parts))


def count_heads(graph: fx.GraphModule, start: str) -> Iterator[int]:
    """Yields the number of heads of each attention layer in a traced backbone, from the first module on that `start` matches."""
    nodes = [node for node in graph.graph.nodes if node.op == "call_module"]
    for node in dropwhile(lambda node: bool(start) and not matches(str(node.target), start), nodes):
        attention = graph.get_submodule(str(node.target))
        if isinstance(attention, HeadAttention):
            yield cast(nn.Linear, graph.get_submodule(node.args[0].target)).out_features // QKV // attention.head_dim


def spec_of_stream(stream: Stream, sigma: float, spec: MaskSpec) -> MaskSpec:
    """Returns how the mask of a stream is drawn: with its own σ, and where its units are heads, so that the number of their
    channels is a multiple of `align`."""
    align = spec.align // math.gcd(spec.align, stream.head_dim) if stream.head_dim else spec.align
    return replace(spec, sigma=sigma, align=align)
