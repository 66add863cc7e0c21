"""Suite `memory`: peak memory of training steps as the number of tasks grows, without heads and their optimizer states.

On a GPU the allocator measures it. On a CPU every measurement runs in a process of its own, because the peak of a process
never falls. The processes are forked from one that has imported everything, so that all start with the same size.
"""

import gc
import multiprocessing
import os
import resource
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import numpy as np
import torch

from matl_scale.benchmark.figure import Conditions, Figure
from matl_scale.benchmark.inputs import build_resnet
from matl_scale.benchmark.training_step import OurStep
from matl_scale.train.process_group import build_accelerator

NUM_STEPS = 3
SIZE = 224
MANY, FEW = 1000, 10


def peak_bytes(size: int, num_tasks: int, num_routes: int | None = None) -> int:
    """Returns the peak of a few training steps, without parameters and optimizer states of the heads: with images of `size`
    pixels, and tasks on routes of their own, or on so many routes."""
    accelerator = build_accelerator("fp32")
    on_gpu = accelerator.device.type == "cuda"
    if on_gpu:
        gc.collect()  # the network of the measurement before
        torch.cuda.reset_peak_memory_stats()
    step = OurStep(accelerator, build_resnet(num_tasks, size, num_routes), size)
    for _ in range(NUM_STEPS):
        step()
    if on_gpu:
        peak = torch.cuda.max_memory_allocated()
    else:
        unit = 1 if sys.platform == "darwin" else 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    heads = [parameter for head in step.model.heads for parameter in head.parameters()]
    states = [value for head in heads for value in step.optimizer.state.get(head, {}).values()]
    return int(peak - sum(tensor.nbytes for tensor in (*heads, *states)))


def measure_peaks(cases: Sequence[tuple[int, ...]], conditions: Conditions) -> np.ndarray:
    """Returns the bytes of two cases, given as arguments of `peak_bytes`; shape `(rounds, 2)`."""
    if conditions.device.type == "cuda":
        return np.array([[peak_bytes(*case) for case in cases] for _ in range(conditions.rounds)], dtype=float)
    # with settings that let the allocator keep freed memory, that would count as used
    os.environ.pop("GLIBC_TUNABLES", None)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["matl_scale.benchmark.training_step"])
    rounds = [[in_process(context, case) for case in cases] for _ in range(conditions.rounds)]
    return np.array(rounds, dtype=float)


def in_process(context: multiprocessing.context.ForkServerContext, case: tuple[int, ...]) -> int:
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(peak_bytes, *case).result()


def figures(conditions: Conditions) -> list[Figure]:  # noqa: ARG001
    meaning = "T = 1,000 ÷ T = 10, less heads and their optimizer states, ≤ 1.02"
    return [Figure("memory_t1000_vs_t10", meaning, partial(measure_peaks, ((SIZE, MANY), (SIZE, FEW))))]
