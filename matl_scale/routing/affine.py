"""Affine weights of norms that belong to routes: a weight and a bias per channel of every norm in a routed layer, for each route.

The numbers of a route lie in one parameter of its own, as those of its heads do: an optimizer leaves the parameters of routes
that did not run alone. They cover all channels, so that they stay where they are if a route's units change; those of inactive
units get no gradient. Norms in layers that are not routed keep weights that all routes share.

Source: Rebuffi, Bilen, Vedaldi, Learning multiple visual domains with residual adapters, NeurIPS 2017, arXiv 1705.08045 (each
domain has batch norms of its own there).
"""

from collections.abc import Sequence
from typing import Any, Literal, Protocol, cast

import torch
from torch import nn

Affine = Literal["shared", "route"]
# of one route, or of a batch with a route per image: for each norm with weights per route its weight and bias, of shape
# `(2, num_channels)`, or `(batch, 2, num_channels)`; None where all norms share them
AffineWeights = Sequence[torch.Tensor] | None


class AffineNorm(Protocol):
    """A norm whose affine weights may belong to routes. `affine_index` says which of a route's weights are its own; None if it
    has weights that all routes share."""

    weight: torch.Tensor
    bias: torch.Tensor
    affine_index: int | None


def give_own_affine(norm: nn.Module, index: int) -> None:
    """Lets a norm read the affine weights that it is given as number `index`. Its own become buffers: the values from which every
    route starts."""
    for name in ("weight", "bias"):
        value = getattr(norm, name).detach().clone()
        delattr(norm, name)
        norm.register_buffer(name, value)
    cast(Any, norm).affine_index = index


def read_affine(norm: AffineNorm, affine: AffineWeights) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the weight and the bias of a norm, each of shape `(num_channels,)`, or `(batch, num_channels)`."""
    if norm.affine_index is None:
        return norm.weight, norm.bias
    if affine is None:
        raise ValueError(
            "A network whose affine weights belong to routes should be given those of the active route: "
            "`model.affine_of(route_id)`."
        )
    weight, bias = affine[norm.affine_index].unbind(-2)
    return weight, bias


def affine_norms(trunk: nn.Module) -> list[AffineNorm]:
    """Returns the norms whose affine weights belong to routes, in the order of their weights."""
    found = [module for module in trunk.modules() if getattr(module, "affine_index", None) is not None]
    return sorted(cast(list[AffineNorm], found), key=lambda norm: norm.affine_index or 0)


def initial_affine(trunk: nn.Module) -> list[torch.Tensor]:
    """Returns the affine weights from which every route of a trunk starts; empty if its routes have none of their own."""
    return [torch.stack([norm.weight, norm.bias]) for norm in affine_norms(trunk)]


class RouteAffine(nn.Module):
    """The affine weights of all routes.

    Args:
        initial: From `initial_affine`: what each route starts from.
        num_routes: The number of routes.

    Attributes:
        rows: For each route all of its weights, shape `(2 · num_channels of all norms,)`.
    """

    def __init__(self, initial: Sequence[torch.Tensor], num_routes: int) -> None:
        super().__init__()
        self.sizes = [values.numel() for values in initial]
        flat = torch.cat([values.flatten() for values in initial])
        self.rows = nn.ParameterList(nn.Parameter(flat.clone()) for _ in range(num_routes))

    def of(self, route_id: int) -> list[torch.Tensor]:
        """Returns the weights of a route, each of shape `(2, num_channels)`. Gradients flow back into its row."""
        return [part.view(2, -1) for part in self.rows[route_id].split(self.sizes)]

    def of_each(self, route_ids: Sequence[int]) -> list[torch.Tensor]:
        """Returns the weights of a batch with a route per image, each of shape `(batch, 2, num_channels)`."""
        rows = torch.stack([self.rows[route_id] for route_id in route_ids])
        return [part.view(len(rows), 2, -1) for part in rows.split(self.sizes, dim=1)]

    @torch.no_grad()
    def fill(self, initial: Sequence[torch.Tensor]) -> None:
        """Sets the weights of all routes to those that `initial_affine` returned."""
        flat = torch.cat([values.flatten() for values in initial])
        for row in self.rows:
            row.copy_(flat)
