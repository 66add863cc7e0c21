"""Units as they appear in tensors: sets of tied units, the streams they form, and the indices of active channels."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import fx

from matl_scale.errors import InputError


class Unions:
    """Disjoint sets of units, as a forest."""

    def __init__(self) -> None:
        self._parent: list[int] = []

    def new(self, count: int) -> np.ndarray:
        first = len(self._parent)
        self._parent += range(first, first + count)
        return np.arange(first, first + count)

    def find(self, unit: int) -> int:
        while self._parent[unit] != unit:
            self._parent[unit] = unit = self._parent[self._parent[unit]]
        return unit

    def tie(self, left: np.ndarray, right: np.ndarray) -> None:
        for a, b in zip(left.tolist(), right.tolist(), strict=True):
            a, b = self.find(a), self.find(b)
            # the older unit becomes the root, so that a stream is named after its first conv
            self._parent[max(a, b)] = min(a, b)

    def roots(self) -> np.ndarray:
        """Returns the root of every unit, shape `(num_units,)`."""
        roots = np.array(self._parent, dtype=np.int64)
        while not np.array_equal(above := roots[roots], roots):
            roots = above
        return roots


@dataclass(frozen=True, kw_only=True)
class Stream:
    """Convs that share one mask."""

    convs: list[str]  # their names, in the order of the graph
    units: np.ndarray  # as roots of the unions
    head_dim: int = 0  # the channels of each unit if the units are attention heads

    @property
    def name(self) -> str:
        """Its first conv."""
        return self.convs[0]


@dataclass(frozen=True, kw_only=True)
class Channels:
    """The channels of one tensor, and the unit behind each, shape `(num_channels,)`; None for what has no units, as
    the image."""

    units: np.ndarray | None
    dim: int = 1  # the dimension of the tensor that holds the channels, or -1 for the last
    pixels: int = 1  # how many neighbouring features a flatten has made of a channel, for images of the traced size


@dataclass(frozen=True, kw_only=True)
class ChannelMap:
    """Where routers go, and the units behind every channel."""

    channels: dict[fx.Node, Channels]
    convs: list[str]  # the names of all convs, in the order of the graph
    routed: list[fx.Node]  # those that a router may follow
    streams: list[Stream]  # disjoint; together they cover all units

    def units(self, node: fx.Node) -> np.ndarray:
        units = self.channels[node].units
        assert units is not None
        return units


def stack_columns(columns: Mapping[int, torch.Tensor], units: np.ndarray) -> torch.Tensor:
    """Returns the mask of a tensor whose channels have these units, bool, shape `(num_routes, num_channels)`.

    `columns` are the mask columns of routed units, shape `(num_routes,)`; at least one is among `units`. A unit without one
    is active for every route.
    """
    found = [columns.get(unit) for unit in units.tolist()]
    everywhere = torch.ones_like(next(column for column in found if column is not None))
    return torch.stack([everywhere if column is None else column for column in found], dim=1)


def build_index_table(mask: torch.Tensor, module: str) -> torch.Tensor:
    """Returns the indices of each route's active channels, ascending, shape `(num_routes, num_active)`, from a bool mask of shape
    `(num_routes, num_channels)`; int16 where possible, because with a thousand routes these tables take much memory.

    Raises:
        InputError: Routes keep different numbers of channels.
    """
    counts = mask.sum(dim=1)
    low, high = int(counts.min()), int(counts.max())
    if low != high:
        raise InputError(
            f"This backbone cannot be routed: module `{module}`: a route would keep {low} to {high} of its channels, "
            "because a grouped conv or an addition ties unequal numbers of them together."
        )
    table = mask.nonzero()[:, 1].view(len(mask), high)
    return table.to(torch.int16 if mask.shape[1] <= torch.iinfo(torch.int16).max else torch.int32)


def active_indices(table: torch.Tensor, route: torch.Tensor) -> torch.Tensor:
    """Returns one route's row of an index table, int64, shape `(num_active,)`; `route` has shape `(1,)`."""
    return table.index_select(0, route)[0].long()
