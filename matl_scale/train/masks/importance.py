"""How much each unit matters to each route, measured in the backward passes of training.

The importance of a unit for a slot is |∂L/∂z|, where z = 1 is a gate that multiplies the unit behind its norm: to first order,
how much the slot's loss changes without the unit (Molchanov, Mallya, Tyree, Frosio, Kautz, Importance Estimation for Neural
Network Pruning, CVPR 2019, arXiv 1906.10771: gates behind batch norms; they square it where we take the absolute value). It
needs no gate: ∂L/∂z = Σ w·∂L/∂w over the unit's weight and bias in the norm, or in the conv where no norm follows. Over the
filter in front of a batch norm that sum would be zero for every unit, because the norm undoes any change of scale. The gate of an
attention head is that of its values. A unit that several layers of a residual stream share has the sum of their gates, with
signs: without the unit, all of them close.

A slot's values are added up per route, float64, over the slots of all ranks.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import cast

import numpy as np
import torch
from torch import fx, nn

from matl_scale.errors import RunError, shortened
from matl_scale.models.network import RoutedModel
from matl_scale.routing.attention import HeadAttention
from matl_scale.routing.derive import units_of
from matl_scale.routing.masks import UnitScores
from matl_scale.routing.router import TaskRouter
from matl_scale.routing.shared_prefix import module_of


class UnitImportance:
    """Sums the importance of the routed units of a network in which every route has all of them.

    Between `begin_slot` and `end_slot` it listens to the backward pass. What ranks exchange is in `changes`; `apply` adds the
    changes of all ranks to the sums.

    Args:
        model: The network. Its parameters get hooks.

    Attributes:
        sums: By route and unit, float64, shape `(num_routes, num_units)`.
        changes: This rank's part of the step under way: by route, shape `(num_units,)`.
    """

    def __init__(self, model: RoutedModel) -> None:
        self.names = model.routes.names
        self._units: dict[str, torch.Tensor] = {}  # by router, its channels as columns of the sums
        self._slot: torch.Tensor | None = None
        columns: dict[int, int] = {}
        # by index of affine weights that belong to routes, the columns of their channels
        own: dict[int, torch.Tensor] = {}
        device = next(model.trunk.parameters()).device
        for router, layer, units in find_gates(model.trunk):
            indices = [columns.setdefault(unit, len(columns)) for unit in units.tolist()]
            self._units[router] = torch.tensor(indices, device=device)
            for parameter in layer.parameters(recurse=False):
                # the last outputs: of a layer that makes queries and keys besides, the values
                parameter.register_hook(partial(self._note, parameter, self._units[router]))
            if (index := getattr(layer, "affine_index", None)) is not None:
                own[index] = self._units[router]
        if model.affine is not None:
            for row in model.affine.rows:
                row.register_hook(
                    partial(self._note_row, row, model.affine.sizes, [own[index] for index in sorted(own)])
                )
        self.sums = torch.zeros(model.routes.num_routes, len(columns), dtype=torch.float64, device=device)
        self.changes: dict[int, torch.Tensor] = {}

    @property
    def num_units(self) -> int:
        return self.sums.shape[1]

    def begin_slot(self) -> None:
        """Starts to listen, before the backward pass of a slot."""
        self._slot = self.sums.new_zeros(self.num_units)

    def end_slot(self, route_id: int, scale: float) -> None:
        """Adds what the slot has brought; its loss was multiplied by `scale`."""
        assert self._slot is not None
        change = self._slot.abs() / scale
        self.changes[route_id] = self.changes[route_id] + change if route_id in self.changes else change
        self._slot = None

    def apply(self, changes: Mapping[int, torch.Tensor]) -> None:
        """Adds the changes of a step of all ranks, by route."""
        for route_id, change in changes.items():
            self.sums[route_id] += change

    def scores(self) -> UnitScores:
        """Returns the sums by router.

        Raises:
            RunError: A route has none: no slot of it was measured.
        """
        if missing := [self.names[route] for route in torch.nonzero(self.sums.sum(dim=1) == 0).flatten().tolist()]:
            raise RunError(
                f"`routing.strategy` = magnitude cannot choose units for {len(missing)} routes that were not trained in the "
                f"dense part: {shortened(missing)}. Raise `routing.dense_share`, train longer, or set `tasks.policy` to rounds."
            )
        return UnitScores(scores={name: self.sums[:, units] for name, units in self._units.items()})

    def _note(self, parameter: nn.Parameter, units: torch.Tensor, gradient: torch.Tensor) -> None:
        """Adds Σ w·∂L/∂w of each channel of a parameter, whose first dimension they are."""
        if self._slot is not None:
            values, gradients = parameter.detach()[-len(units) :], gradient[-len(units) :]
            products = values.double() * gradients.double()
            self._slot.index_add_(0, units, products.reshape(len(units), -1).sum(dim=1))

    def _note_row(
        self, row: nn.Parameter, sizes: Sequence[int], units: Sequence[torch.Tensor], gradient: torch.Tensor
    ) -> None:
        """Does the same for the affine weights of a route, see `RouteAffine`."""
        if self._slot is not None:
            products = (row.detach().double() * gradient.double()).split(list(sizes))
            for part, columns in zip(products, units, strict=True):
                self._slot.index_add_(0, columns, part.view(2, -1).sum(dim=0))


def find_gates(trunk: fx.GraphModule) -> Iterator[tuple[str, nn.Module, np.ndarray]]:
    """Yields the name of each router, the layer in front of it, and the units of its channels."""
    for node in trunk.graph.nodes:
        if isinstance(module_of(trunk, node), TaskRouter):
            source = cast(fx.Node, node.args[0])
            if isinstance(module_of(trunk, source), HeadAttention):  # linear in the values
                source = cast(fx.Node, source.args[0])
            layer = module_of(trunk, source)
            assert layer is not None
            yield str(node.target).removeprefix("routers."), layer, units_of(node)
