"""How a training step runs the trunk: wrapped for data-parallel training, on slices or masked, compiled if asked for."""

import contextlib
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

import torch
from accelerate import Accelerator
from torch import fx

from matl_scale.models.network import Execution
from matl_scale.routing.subnetwork import Subnetwork

Gather = Callable[[torch.Tensor], list[torch.Tensor]]


class TrunkExecution:
    """Computes features of the active task in the micro-steps of a rank, with a trunk from `route()`."""

    def __init__(
        self, accelerator: Accelerator, trunk: fx.GraphModule, execution: Execution, compiled: bool = False
    ) -> None:
        self.accelerator = accelerator
        subnetwork = Subnetwork(trunk) if execution == "subnetwork" else None
        module = subnetwork or trunk
        if compiled:
            module.compile()
        with warnings.catch_warnings():
            # accelerate still passes the name that torch 2.13 replaces
            warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated", category=FutureWarning)
            self.module = accelerator.prepare_model(module)
        self.slices: SharedSlices | None = None
        if subnetwork is not None:
            gather: Gather = torch.compile(subnetwork.gather) if compiled else subnetwork.gather
            self.slices = SharedSlices(gather)

    def begin_step(self, tasks: Sequence[int]) -> None:
        """Begins a step whose micro-steps on this rank run these tasks."""
        if self.slices is not None:
            self.slices.begin_step(tasks)

    def accumulating(self, is_last: bool) -> contextlib.AbstractContextManager[None]:
        """Returns the context of a micro-step: the trunk's gradients are reduced over ranks once, in the last one."""
        nothing: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        return nothing if is_last else self.accelerator.no_sync(self.module)

    def features(self, images: torch.Tensor, task_id: int) -> torch.Tensor:
        """Returns the features of images of shape `(batch, 3, height, width)`, `(batch, num_features)`; once per micro-step."""
        task = torch.tensor([task_id], device=images.device)
        if self.slices is None:
            features: torch.Tensor = self.module(images, task)
        else:
            features = self.module(images, task, self.slices.slices_of(task_id, task))
        return features


class SharedSlices:
    """The slices of a step's tasks, gathered once however many micro-steps of a rank run the same task.

    All micro-steps of a task but its last run on detached copies of the slices, on which gradients accumulate. The backward
    pass of the last one adds them to its own, and the sum reaches the trunk once. `gather` cuts its parameters to the units
    of a task.
    """

    def __init__(self, gather: Gather) -> None:
        self.gather = gather
        self._remaining: Counter[int] = Counter()
        self._slices: dict[int, list[torch.Tensor]] = {}
        self._copies: dict[int, list[torch.Tensor]] = {}

    def begin_step(self, tasks: Sequence[int]) -> None:
        self._remaining, self._slices, self._copies = Counter(tasks), {}, {}

    def slices_of(self, task_id: int, task: torch.Tensor) -> list[torch.Tensor]:
        """Returns the slices for the next micro-step of the active task; `task` is `task_id` as a tensor, shape `(1,)`."""
        self._remaining[task_id] -= 1
        slices = self._slices.pop(task_id) if task_id in self._slices else self.gather(task)
        if not self._remaining[task_id]:
            for part, copy in zip(slices, self._copies.pop(task_id, []), strict=False):
                if copy.grad is not None:
                    part.register_hook(partial(torch.add, copy.grad))
            return slices
        self._slices[task_id] = slices
        if task_id not in self._copies:
            self._copies[task_id] = [part.detach().requires_grad_() for part in slices]
        return self._copies[task_id]
