"""Modules of the trunk whose weights stay as they are while the rest is trained (`model.freeze`), and a whole trunk that rests
while heads are trained first (`optim.head_warmup`).

They run in evaluation mode: norms use their running statistics, and nothing is dropped. Only norm statistics that a route lacks
are gathered, in the first steps in which it runs. A trunk that rests as a whole runs without gradients; after its first steps,
its features of an image do not change.
"""

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import fx, nn

from matl_scale.routing.affine import RouteAffine, affine_norms
from matl_scale.routing.batch_norm import RouteBatchNorm2d
from matl_scale.routing.layers import check_patterns, matches_any
from matl_scale.routing.router import TaskRouter
from matl_scale.routing.shared_prefix import module_of

NUM_UPDATES = 10  # steps whose mean statistics a route keeps


class Resting:
    """Runs some modules of a trunk in evaluation mode.

    Args:
        modules: The modules.
        is_whole: Whether they are the whole trunk, so that it needs no gradients.
    """

    def __init__(self, modules: Sequence[nn.Module], is_whole: bool) -> None:
        self.modules, self.is_whole = modules, is_whole
        self.norms = [module for module in modules if isinstance(module, RouteBatchNorm2d)]
        self._complete: set[int] = set()  # routes that have statistics in all norms

    @contextlib.contextmanager
    def running(self, route_ids: Sequence[int]) -> Iterator[None]:
        """Context manager for a forward pass of some routes. A norm that has fewer than `NUM_UPDATES` updates of the statistics
        of one of them normalises by the batch, and updates them, unless it is in evaluation mode already: what `run.freeze`
        keeps."""
        training = [module for module in self.modules if module.training]
        gathering = {norm for route_id in route_ids for norm in self._find_gathering(route_id) if norm.training}
        for module in training:
            module.training = False
        for norm in gathering:
            norm.training = True
        try:
            with torch.no_grad() if self.is_whole else contextlib.nullcontext():
                yield
        finally:
            for module in training:
                module.training = True

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


def rest_whole(trunk: fx.GraphModule) -> Resting:
    """Returns what runs a whole trunk in evaluation mode, without gradients; its weights stay parameters that are trained."""
    return Resting(list(trunk.modules()), is_whole=True)


def freeze_modules(trunk: fx.GraphModule, patterns: Sequence[str], affine: RouteAffine | None = None) -> Resting | None:
    """Freezes the modules of a trunk that some pattern matches, in place: their weights, and what routes have of their own in
    their norms, get no gradients.

    Args:
        trunk: From `route()`, with the weights to keep.
        patterns: Patterns of module names, as in `matl_scale.routing.layers`.
        affine: The affine weights of its routes, if they have their own.

    Returns:
        What runs these modules in evaluation mode; None if there is no pattern.

    Raises:
        InputError: A pattern matches no module with weights.
    """
    if not patterns:
        return None
    owners = [name for name, module in trunk.named_modules() if has_weights(module)]
    check_patterns("model.freeze", patterns, owners, "modules with weights")
    for name, parameter in trunk.named_parameters():
        if matches_any(name.rpartition(".")[0], patterns):
            parameter.requires_grad_(False)
    if affine is not None:
        freeze_affine(trunk, patterns, affine)
    if not any(
        parameter.requires_grad for part in (trunk, affine) if part is not None for parameter in part.parameters()
    ):
        return rest_whole(trunk)
    frozen = [module for name, module in trunk.named_modules() if name and matches_any(name, patterns)]
    return Resting(frozen, is_whole=False)


def has_weights(module: nn.Module) -> bool:
    """Returns whether a module has weights of its own, or reads those that routes have for it."""
    is_own = next(module.parameters(recurse=False), None) is not None
    return is_own or getattr(module, "affine_index", None) is not None


def freeze_affine(trunk: fx.GraphModule, patterns: Sequence[str], affine: RouteAffine) -> None:
    """Freezes what routes have of their own in the norms of frozen modules: their part of each route's one row."""
    names = {id(module): name for name, module in trunk.named_modules()}
    kept = [matches_any(names[id(norm)], patterns) for norm in affine_norms(trunk)]
    if all(kept):
        affine.requires_grad_(False)
        return
    for row in affine.rows:
        parts = row.new_ones(len(row)).split(list(affine.sizes))
        trained = torch.cat([part * (not is_kept) for part, is_kept in zip(parts, kept, strict=True)])
        # without gradient it stays: rows do not decay, and moments begin at zero
        row.register_hook(lambda gradient, trained=trained: gradient * trained.to(gradient))


def keep_statistics(trunk: fx.GraphModule) -> None:
    """Takes the norm statistics with which a trunk was built for complete, where every route keeps all units of the layers
    before. Behind units that are missing they would be others."""
    whole: set[fx.Node] = set()  # nodes with the values that they had before the trunk was routed
    for node in trunk.graph.nodes:
        module = module_of(trunk, node)
        lacks_units = isinstance(module, TaskRouter) and not module.mask.all()
        if not lacks_units and whole.issuperset(node.all_input_nodes):
            whole.add(node)
            if isinstance(module, RouteBatchNorm2d):
                module.num_updates.fill_(NUM_UPDATES)
