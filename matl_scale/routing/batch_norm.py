"""Batch norm whose running statistics belong to routes: each route feeds it other inputs, so one running mean would fit none.

The running mean and variance have a row per route, over the route's active units; affine weights are shared between routes,
unless they are given (`matl_scale.routing.affine`). A row begins as the plain average of its first 1 / momentum batches: with
hundreds of routes each is seen rarely, and a fraction (1 − momentum)^n of a moving average would still be its initial values
after n batches.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import nn
from torch.nn import functional

from matl_scale.routing.affine import AffineWeights, read_affine
from matl_scale.routing.units import active_indices

Statistics = Literal["route", "shared", "step"]
# from a batch, weights, biases and ε to the normalised batch, and its means and variances, shape `(2, num_channels)`
Normalise = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, float], tuple[torch.Tensor, torch.Tensor]]


class RouteBatchNorm2d(nn.Module):
    """`nn.BatchNorm2d` whose running statistics have a row per route.

    It replaces `norm`, uses its weights, and every route starts from its statistics. `active` are the active channels of each
    route, shape `(num_routes, num_active)`, or `(1, num_active)` if they are the same for all. With `statistics` = `shared`
    there is a single row, where a route updates its units: in layers that are not routed, and elsewhere to compare with.
    `step` means the same in evaluation; in training, images of several routes are normalised together, and update all channels.

    Attributes:
        statistics: `route`, or `shared`.
        is_joint: Whether it is `step`.
        normalise: What normalises the images of several routes: `normalise_batch`, or the same over all ranks.
        running: Means and variances, shape `(num_routes, 2, num_active)`, or `(1, 2, num_channels)` if shared.
        num_updates: The number of updates of each row, shape `(num_routes, 1)`; if shared, of each channel, shape
            `(1, num_channels)`.
    """

    weight: torch.Tensor  # a buffer if routes have affine weights of their own
    bias: torch.Tensor
    running: torch.Tensor
    num_updates: torch.Tensor
    active: torch.Tensor

    def __init__(self, norm: nn.BatchNorm2d, active: torch.Tensor, statistics: Statistics = "route") -> None:
        super().__init__()
        assert norm.running_mean is not None
        assert norm.running_var is not None
        assert norm.momentum is not None
        self.num_features, self.eps, self.momentum = norm.num_features, norm.eps, norm.momentum
        self.is_joint = statistics == "step"
        self.normalise: Normalise = normalise_batch
        self.statistics: Literal["route", "shared"] = "route" if statistics == "route" else "shared"
        self.updates_statistics = True  # in training mode; not when a forward pass is made again (`checkpointing`)
        self.weight, self.bias = norm.weight, norm.bias
        self.affine_index: int | None = None
        self.register_buffer("active", active, persistent=False)
        channels = active.long() if self.statistics == "route" else torch.arange(self.num_features)[None]
        self.register_buffer("running", torch.stack([norm.running_mean[channels], norm.running_var[channels]], dim=1))
        counts = (len(channels), 1) if self.statistics == "route" else channels.shape
        self.register_buffer("num_updates", torch.zeros(counts, dtype=norm.running_mean.dtype))

    def forward(self, x: torch.Tensor, route: torch.Tensor, affine: AffineWeights = None) -> torch.Tensor:
        """Normalises `x`, shape `(batch, num_channels, height, width)`; in training mode by the batch's statistics, which also
        update the running ones. `route` has shape `(1,)`; in evaluation mode, and where the norm is joint, `(batch,)` too.
        `affine` are the routes' own affine weights, if they have any."""
        weight, bias = read_affine(self, affine)
        if self.training and self.is_joint:
            y, statistics = self.normalise(x, weight, bias, self.eps)
            self._update_all(statistics)
            return y
        if len(route) > 1:
            return self._forward_mixed(x, route, weight, bias)
        indices = self._active_indices(route)
        if self.training:
            y, statistics = normalise_batch(x, weight, bias, self.eps)
            self._update(route, statistics.index_select(1, indices))
            return y
        # the router behind this norm switches the route's inactive channels off, whatever they are here
        mean, var = torch.zeros_like(bias), torch.ones_like(bias)
        active_mean, active_var = self.read(route)
        mean, var = mean.index_copy(0, indices, active_mean), var.index_copy(0, indices, active_var)
        return functional.batch_norm(x, mean, var, weight, bias, False, 0.0, self.eps)

    def forward_active(
        self, x: torch.Tensor, route: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor
    ) -> torch.Tensor:
        """Does the same for the route's active channels alone: `x` has shape `(batch, num_active, height, width)`; weight and
        bias are the affine ones of these channels, shape `(num_active,)`.

        In training mode there may be several slots: `route` has shape `(num_slots,)`, and the channels of each lie behind those
        of the one before. Each starts from the same running statistics, and their changes are added up.
        """
        if not self.training:
            return functional.batch_norm(x, *self.read(route), weight, bias, False, 0.0, self.eps)
        y, statistics = normalise_batch(x, weight, bias, self.eps)
        if len(route) == 1:
            self._update(route, statistics)
        else:
            self._add_changes(route, statistics.view(2, len(route), -1))
        return y

    def read(self, route: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the running mean and variance of a route's active units, each of shape `(num_active,)`."""
        stat_row = self.running.index_select(*self._location(route))[0]
        return stat_row[0], stat_row[1]

    def fewest_updates(self, route: torch.Tensor) -> torch.Tensor:
        """Returns the number of updates of a route's statistics; of several numbers, the smallest. Its shape is `()`."""
        return self.num_updates.index_select(*self._location(route)).min()

    def _location(self, route: torch.Tensor) -> tuple[int, torch.Tensor]:
        """Returns where a route's statistics are: the dimension to index, and the indices."""
        return (0, route) if self.statistics == "route" else (-1, self._active_indices(route))

    def _active_indices(self, route: torch.Tensor) -> torch.Tensor:
        return active_indices(self.active, route if len(self.active) > 1 else torch.zeros_like(route))

    @torch.no_grad()
    def _update(self, route: torch.Tensor, statistics: torch.Tensor) -> None:
        if not self.updates_statistics:
            return
        # an index tensor, not an int: so one compiled graph serves all routes
        dim, index = self._location(route)
        updates = self.num_updates.index_select(dim, index) + 1
        self.num_updates.index_copy_(dim, index, updates)
        weight = updates.reciprocal().clamp_(min=self.momentum)
        running = self.running.index_select(dim, index)
        self.running.index_copy_(dim, index, running.lerp_(statistics[None], weight))

    @torch.no_grad()
    def _update_all(self, statistics: torch.Tensor) -> None:
        """Updates all channels of a single row by means and variances, shape `(2, num_channels)`."""
        if not self.updates_statistics:
            return
        self.num_updates += 1
        self.running.lerp_(statistics[None], self.num_updates.reciprocal().clamp_(min=self.momentum))

    @torch.no_grad()
    def _add_changes(self, routes: torch.Tensor, statistics: torch.Tensor) -> None:
        """Does for several slots what `_update` does for each alone, always from the values before, and adds the changes up:
        `routes` are those of the slots, `statistics` the means and variances of each, shape `(2, num_slots, num_active)`."""
        if self.statistics == "route":
            updates = self.num_updates.index_select(0, routes) + 1  # (num_slots, 1)
            changes = statistics.transpose(0, 1) - self.running.index_select(0, routes)
            changes *= updates.reciprocal().clamp_(min=self.momentum)[:, None]
            self.num_updates.index_add_(0, routes, torch.ones_like(updates))
            self.running.index_add_(0, routes, changes)
            return
        table = self.active if len(self.active) == 1 else self.active.index_select(0, routes)
        indices = table.long().expand(len(routes), -1).flatten()
        updates = self.num_updates.index_select(1, indices) + 1
        changes = statistics.reshape(1, 2, -1) - self.running.index_select(2, indices)
        changes *= updates.reciprocal().clamp_(min=self.momentum)
        self.num_updates.index_add_(1, indices, torch.ones_like(updates))
        self.running.index_add_(2, indices, changes)

    def _forward_mixed(
        self, x: torch.Tensor, route: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor
    ) -> torch.Tensor:
        if self.training:
            raise RuntimeError(
                "A batch of several routes cannot train a batch norm, because its statistics would belong to no route."
            )
        mean, var = self.running[:, 0], self.running[:, 1]
        if self.statistics == "route":
            indices = self.active.index_select(0, route).long()
            zeros = mean.new_zeros(len(x), self.num_features)
            mean = zeros.scatter(1, indices, mean.index_select(0, route))
            var = (zeros + 1).scatter(1, indices, var.index_select(0, route))
        scale = weight * (var + self.eps).rsqrt()
        shift = bias - mean * scale
        y = x * scale[:, :, None, None] + shift[:, :, None, None]
        return y.to(x.dtype)

    @torch.no_grad()
    def follow(self, before: torch.Tensor, active: torch.Tensor) -> None:
        """Brings the statistics of routes into the order of other active channels, in place. `before` and `active` are those
        until now and from now on, each of shape `(num_routes, num_active)`.

        A channel that a route keeps keeps its values. One that it gains starts from their mean over the routes that have it and
        have been trained, or from mean 0 and variance 1. `active` itself is left to the caller, because norms share it.
        """
        if self.statistics == "shared":
            return
        old, new = (table.to(self.running.device).long()[:, None].expand_as(self.running) for table in (before, active))
        nothing = self.running.new_zeros(len(old), 2, self.num_features)
        values, has = nothing.scatter(2, old, self.running), nothing.scatter(2, old, 1.0)
        trained = has * (self.num_updates > 0)[:, :, None]
        count = trained.sum(dim=0)
        initial = torch.tensor([[0.0], [1.0]], device=count.device, dtype=count.dtype)
        means = torch.where(count > 0, (values * trained).sum(dim=0) / count.clamp(min=1), initial)
        self.running.copy_(torch.where(has > 0, values, means).gather(2, new))

    def stat_row(self, index: int) -> list[torch.Tensor]:
        """Returns flat views of one row of statistics: means and variances, and the number of updates."""
        return [self.running[index].view(-1), self.num_updates[index]]

    def extra_repr(self) -> str:
        return f"{self.num_features}, statistics={self.statistics}, eps={self.eps}, momentum={self.momentum}"


def normalise_batch(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the normalised batch, and its means and variances, shape `(2, num_channels)`; `x` has shape `(batch, num_channels,
    height, width)`."""
    statistics = bias.new_zeros(2, len(bias))
    # with momentum 1 the "running" statistics become those of this batch
    y = functional.batch_norm(x, statistics[0], statistics[1], weight, bias, True, 1.0, eps)
    return y, statistics


def route_norms(model: nn.Module) -> list[RouteBatchNorm2d]:
    """Returns the route batch norms of a model, in a fixed order."""
    return [module for module in model.modules() if isinstance(module, RouteBatchNorm2d)]
