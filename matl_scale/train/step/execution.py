"""How a training step runs the trunk: wrapped for data-parallel training, on slices or masked, compiled if asked for."""

import contextlib
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Literal

import torch
from accelerate import Accelerator
from torch import fx

from matl_scale.models.routing_config import Execution
from matl_scale.routing.affine import AffineWeights, RouteAffine
from matl_scale.routing.batch_norm import route_norms
from matl_scale.routing.checkpointing import checkpointed
from matl_scale.routing.slice_gradients import SliceGradients
from matl_scale.routing.stacked import StackedSubnetworks
from matl_scale.routing.subnetwork import Subnetwork
from matl_scale.train.step.frozen_modules import freeze_modules, rest_whole
from matl_scale.train.step.rank_norm import normalise_over_ranks
from matl_scale.train.step.slot import Slot, group_alike

Slots = Literal["single", "stacked"]
SlotExecution = Slots | Literal["joint"]  # the last for the statistics of a step
Gather = Callable[[int, torch.Tensor], list[torch.Tensor]]  # from a route, and the same as a tensor, shape `(1,)`


class TrunkExecution:
    """Computes features of the active route in the micro-steps of a rank, with a trunk from `route()`. The weights of its modules
    that a pattern of `freeze` matches stay as they are. `affine` are the routes' own affine weights, if they have any: outside of
    what is wrapped, because each belongs to one route. With `slots` = stacked, a rank runs the slots of a step together where it
    can; with joint, always and as one batch, masked. With `checkpointing`, the backward pass computes blocks again."""

    def __init__(
        self,
        accelerator: Accelerator,
        trunk: fx.GraphModule,
        execution: Execution,
        compiled: bool = False,
        freeze: Sequence[str] = (),
        affine: RouteAffine | None = None,
        slots: SlotExecution = "single",
        checkpointing: bool = False,
    ) -> None:
        self.accelerator, self.affine = accelerator, affine
        self._frozen, self._whole = freeze_modules(trunk, freeze, affine), rest_whole(trunk)
        self._rests = False
        self.is_joint = slots == "joint"
        if self.is_joint and accelerator.num_processes > 1:
            for norm in route_norms(trunk):
                norm.normalise = normalise_over_ranks
        is_sliced = execution == "subnetwork" and not self.is_joint
        self.network = subnetwork = Subnetwork(trunk) if is_sliced else None
        self.stacked: StackedSubnetworks | None = None
        if slots == "stacked":
            assert subnetwork is not None, "see `choose_slots.check_slots`"
            self.stacked = StackedSubnetworks(subnetwork)
        module = self.stacked or subnetwork or trunk
        if checkpointing and subnetwork is not None:
            assert self.stacked is None, "see `choose_slots.check_slots`"
            subnetwork.dense = checkpointed(subnetwork.dense)
        elif checkpointing:
            module = checkpointed(trunk)
        if compiled:
            module.compile()
        with warnings.catch_warnings():
            # accelerate still passes the name that torch 2.13 replaces
            warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated", category=FutureWarning)
            # DDP refuses a module that has nothing to reduce
            has_gradients = any(parameter.requires_grad for parameter in trunk.parameters())
            self.module = accelerator.prepare_model(module, evaluation_mode=not has_gradients)
        self.slices: SharedSlices | None = None
        self.gradients: SliceGradients | None = None
        if subnetwork is not None and self.stacked is None:
            if compiled:
                gather = torch.compile(subnetwork.gather)
            else:
                self.gradients = SliceGradients()
                gather = partial(subnetwork.gather, gradients=self.gradients)
            # without a table, slices are the parameters themselves, and nothing is gained by sharing them
            self.slices = SharedSlices(
                lambda route_id, route: gather(route, affine=self._affine_of(route_id)),
                shared=subnetwork.num_tables > 0,
            )

    def begin_step(self, routes: Sequence[int], heads_only: bool = False) -> None:
        """Begins a step whose micro-steps on this rank run these routes, and train the whole network or its heads alone."""
        self._rests = heads_only
        if self.slices is not None:
            self.slices.begin_step(routes)

    def accumulating(self, is_last: bool) -> contextlib.AbstractContextManager[None]:
        """Returns the context of a micro-step: the trunk's gradients are reduced over ranks once, in the last one."""
        nothing: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        if self.gradients is not None:  # gradients are reduced where autograd adds them
            self.gradients.active = not is_last or self.accelerator.num_processes == 1
        return nothing if is_last else self.accelerator.no_sync(self.module)

    def grouped(self, slots: Iterator[Slot]) -> Iterator[list[Slot]]:
        """Yields the slots of a step on this rank in groups, each of which runs as one micro-step."""
        if self.is_joint:
            return iter([list(slots)])
        return ([slot] for slot in slots) if self.stacked is None else group_alike(slots)

    def features(self, images: Sequence[torch.Tensor], route_ids: Sequence[int]) -> list[torch.Tensor]:
        """Returns the features of every slot of a group, each of shape `(batch, num_features)`; once per micro-step.

        Args:
            images: Of every slot, each of shape `(batch, 3, height, width)`.
            route_ids: Their routes.
        """
        routes = torch.tensor(route_ids, device=images[0].device)
        if self.stacked is not None:
            slices = self.stacked.gather(routes, [self._affine_of(route_id) for route_id in route_ids])
            stacked: list[torch.Tensor] = self.module(images, routes, slices)
            return stacked
        resting = self._whole if self._rests else self._frozen
        with contextlib.nullcontext() if resting is None else resting.running(route_ids):
            if self.is_joint:
                sizes = [len(batch) for batch in images]
                by_image = routes.repeat_interleave(torch.tensor(sizes, device=routes.device))
                return list(self.module(torch.cat(list(images)), by_image, None).split(sizes))
            (batch,), (route_id,) = images, route_ids
            if self.slices is None:
                return [self.module(batch, routes, self._affine_of(route_id))]
            return [self.module(batch, routes, self.slices.slices_of(route_id, routes))]

    def _affine_of(self, route_id: int) -> AffineWeights:
        return None if self.affine is None else self.affine.of(route_id)


class SharedSlices:
    """The slices of a step's routes, gathered once however many micro-steps of a rank run the same route.

    All micro-steps of a route but its last run on detached copies of the slices, on which gradients accumulate. The backward
    pass of the last one adds them to its own, and the sum reaches the trunk once. `gather` cuts its parameters to the units
    of a route. Unless they are `shared`, every micro-step has slices of its own.
    """

    def __init__(self, gather: Gather, shared: bool = True) -> None:
        self.gather, self.shared = gather, shared
        self._remaining: Counter[int] = Counter()
        self._slices: dict[int, list[torch.Tensor]] = {}
        self._copies: dict[int, list[torch.Tensor]] = {}

    def begin_step(self, routes: Sequence[int]) -> None:
        self._remaining, self._slices, self._copies = Counter(routes), {}, {}

    def slices_of(self, route_id: int, route: torch.Tensor) -> list[torch.Tensor]:
        """Returns the slices for the next micro-step of the active route; `route` is `route_id` as a tensor, shape `(1,)`."""
        if not self.shared:
            return self.gather(route_id, route)
        self._remaining[route_id] -= 1
        slices = self._slices.pop(route_id) if route_id in self._slices else self.gather(route_id, route)
        if not self._remaining[route_id]:
            for part, copy in zip(slices, self._copies.pop(route_id, []), strict=False):
                if copy.grad is not None:
                    part.register_hook(partial(torch.add, copy.grad))
            return slices
        self._slices[route_id] = slices
        if route_id not in self._copies:
            self._copies[route_id] = [part.detach().requires_grad_(part.requires_grad) for part in slices]
        return self._copies[route_id]
