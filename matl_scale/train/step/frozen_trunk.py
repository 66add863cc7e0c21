"""A trunk whose weights stay as they are while heads are trained on its features (`run.freeze` = trunk).

The trunk runs in evaluation mode and without gradients. Only norm statistics that a route lacks are gathered, in the first steps
in which it runs; after that its features of an image never change.
"""

import contextlib
from collections.abc import Iterator

import torch
from torch import fx

from matl_scale.routing.affine import RouteAffine
from matl_scale.routing.batch_norm import RouteBatchNorm2d, route_norms
from matl_scale.routing.router import TaskRouter

NUM_UPDATES = 10  # steps whose mean statistics a route keeps


class FrozenTrunk:
    """Keeps the weights of a trunk, in place: they get no gradients.

    Args:
        trunk: From `route()`, with the weights to keep.
        affine: The affine weights of its routes, if they have their own; they are kept too.
    """

    def __init__(self, trunk: fx.GraphModule, affine: RouteAffine | None = None) -> None:
        trunk.requires_grad_(False)
        if affine is not None:
            affine.requires_grad_(False)
        self.trunk, self.norms = trunk, route_norms(trunk)
        self._complete: set[int] = set()  # routes that have statistics in all norms

    @contextlib.contextmanager
    def running(self, route_id: int) -> Iterator[None]:
        """Is the context of a forward pass of a route. A norm that has fewer than `NUM_UPDATES` updates of the route's statistics
        normalises by the batch, and updates them."""
        gathering = self._find_gathering(route_id)
        self.trunk.eval()
        for norm in gathering:
            norm.train()
        try:
            with torch.no_grad():
                yield
        finally:
            self.trunk.train()

    def _find_gathering(self, route_id: int) -> list[RouteBatchNorm2d]:
        """Returns the norms whose statistics the route still has to gather."""
        if route_id in self._complete or not self.norms:
            return []
        route = torch.tensor([route_id], device=self.norms[0].num_updates.device)
        counts = torch.stack([norm.fewest_updates(route) for norm in self.norms]).tolist()
        found = [norm for norm, count in zip(self.norms, counts, strict=True) if count < NUM_UPDATES]
        if not found:
            self._complete.add(route_id)
        return found


def keep_statistics(trunk: fx.GraphModule) -> None:
    """Takes the norm statistics with which a trunk was built for complete, if every route keeps all units. Those of a smaller
    sub-network would be others."""
    routers = [module for module in trunk.modules() if isinstance(module, TaskRouter)]
    if all(bool(router.mask.all()) for router in routers):
        for norm in route_norms(trunk):
            norm.num_updates.fill_(NUM_UPDATES)
