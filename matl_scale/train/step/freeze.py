"""Keeps everything that some tasks use as it is, to the last bit, while other tasks are trained beside them (`run.freeze`)."""

import contextlib
from collections.abc import Iterator, Sequence

import torch

from matl_scale.errors import InputError
from matl_scale.models.network import RoutedModel
from matl_scale.routing.batch_norm import route_norms
from matl_scale.routing.subnetwork import Subnetwork


class FrozenPart:
    """The part of a network that the routes of some tasks use: weights between their units, norm statistics, affine
    weights of their own, heads.

    Args:
        model: The network, with the values to keep.
        tasks: The tasks whose logits may not change.

    Raises:
        InputError: A layer cannot be sliced, so that it is not known which of its weights a route uses. Names it.
    """

    def __init__(self, model: RoutedModel, tasks: Sequence[int]) -> None:
        self.norms, kept = route_norms(model), set(tasks)
        self.routes = {model.routes.route_of[task] for task in tasks}
        for head, members in zip(model.heads, model.routes.tasks_of_head, strict=True):
            if kept.issuperset(members):
                head.requires_grad_(False)
        if model.affine is not None:
            for route_id in self.routes:
                model.affine.rows[route_id].requires_grad_(False)
        masks = find_used(model, self.routes)
        self._kept = [(parameter, mask, parameter.detach().clone()) for parameter, mask in masks]

    @contextlib.contextmanager
    def slot(self, route_id: int) -> Iterator[None]:
        """Lets norms use their running statistics, and not change them, where these belong to a route that is kept."""
        fixed = [norm for norm in self.norms if norm.statistics == "shared" or route_id in self.routes]
        for norm in fixed:
            norm.eval()
        try:
            yield
        finally:
            for norm in fixed:
                norm.train()

    def drop_gradients(self) -> None:
        """Sets the gradients of what is kept to zero."""
        for parameter, mask, _ in self._kept:
            if parameter.grad is not None:
                parameter.grad.masked_fill_(mask, 0.0)

    @torch.no_grad()
    def restore(self) -> None:
        """Undoes what an optimizer step did to it all the same: weight decay needs no gradient."""
        for parameter, mask, kept in self._kept:
            parameter.copy_(torch.where(mask, kept, parameter))


def find_used(model: RoutedModel, routes: set[int]) -> list[tuple[torch.nn.Parameter, torch.Tensor]]:
    """Returns the trunk's parameters, as far as they are trained, each with a mask, of its shape, of the elements that some of
    the routes use."""
    parameters = [parameter for parameter in model.trunk.parameters() if parameter.requires_grad]
    if not parameters:  # `model.freeze`, or heads alone
        return []
    try:
        network = Subnetwork(model.trunk)
    except InputError as error:
        raise InputError(f"`run.freeze` = old needs to know which weights a route uses, and cannot: {error}") from error
    used = [torch.zeros_like(parameter, dtype=torch.bool) for parameter in parameters]
    for route_id in sorted(routes):
        route = torch.tensor([route_id], device=parameters[0].device)
        slices = [part for part in network.gather(route, affine=model.affine_of(route_id)) if part.requires_grad]
        # the gradient of their sum is one where a slice has an element, and zero elsewhere
        found = torch.autograd.grad([part.sum() for part in slices], parameters, allow_unused=True)
        for mask, gradient in zip(used, found, strict=True):
            if gradient is not None:
                mask |= gradient != 0
    return list(zip(parameters, used, strict=True))
