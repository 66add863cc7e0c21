"""Suite `sync`: the cost of many tasks in a step on several ranks, with our step and with DDP over all heads."""

import itertools
import warnings
from collections.abc import Callable
from functools import partial

import torch
from accelerate import Accelerator
from torch import nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from matl_scale.benchmark.figure import Conditions, Figure, Workload, timed
from matl_scale.benchmark.inputs import build_resnet
from matl_scale.benchmark.training_step import BATCH, OurStep
from matl_scale.routing.subnetwork import Subnetwork
from matl_scale.train.process_group import build_accelerator
from matl_scale.train.step.sampling import RouteSampler

SIZE = 64


class AllHeads(nn.Module):
    """Trunk and heads in one module, as DDP needs them."""

    def __init__(self, num_tasks: int) -> None:
        super().__init__()
        model = build_resnet(num_tasks, SIZE)
        self.trunk, self.heads = Subnetwork(model.trunk), model.heads

    def forward(self, images: torch.Tensor, task: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.heads[int(task)](self.trunk(images, task))
        return logits


def ddp_step(accelerator: Accelerator, num_tasks: int) -> Workload:
    device = accelerator.device
    with warnings.catch_warnings():
        # torch 2.13 renames broadcast_buffers; earlier releases know only this name
        warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated", category=FutureWarning)
        model = DistributedDataParallel(
            AllHeads(num_tasks).to(device),
            device_ids=[device] if device.type == "cuda" else None,
            find_unused_parameters=True,
            broadcast_buffers=False,
        )
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    images, labels = torch.randn(BATCH, 3, SIZE, SIZE, device=device), torch.arange(BATCH, device=device) % 2
    sampler = RouteSampler(0, num_tasks, accelerator.num_processes)
    steps = itertools.count()

    def run() -> None:
        task_id = int(sampler.routes(next(steps))[accelerator.process_index])
        optimizer.zero_grad(set_to_none=True)
        functional.cross_entropy(model(images, torch.tensor([task_id], device=device)), labels).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return run


def many_and_few(step: Callable[[Accelerator, int], Workload], _: Conditions) -> tuple[Workload, Workload]:
    accelerator = build_accelerator("fp32")
    return step(accelerator, 1000), step(accelerator, 10)


def our_step(accelerator: Accelerator, num_tasks: int) -> OurStep:
    return OurStep(accelerator, build_resnet(num_tasks, SIZE), SIZE)


def exchange_share(conditions: Conditions) -> tuple[Workload, Workload]:  # noqa: ARG001
    """Returns an all-reduce of as many bytes as a step's, and the step."""
    step = our_step(build_accelerator("fp32"), 10)
    buffer = torch.zeros(step() // 4, device=step.accelerator.device)
    return lambda: torch.distributed.all_reduce(buffer), step


def figures(conditions: Conditions) -> list[Figure]:  # noqa: ARG001
    return [
        Figure("step_t1000_vs_t10", "T = 1,000 ÷ T = 10, ours, ≤ 1.05", timed(partial(many_and_few, our_step))),
        Figure(
            "step_t1000_vs_t10_ddp_unused",
            "T = 1,000 ÷ T = 10, DDP with find_unused_parameters",
            timed(partial(many_and_few, ddp_step)),
        ),
        Figure("sync_share_of_step", "the all-reduce for heads and statistics ÷ the step", timed(exchange_share)),
    ]
