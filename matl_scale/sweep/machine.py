"""Divides a machine between several runs at a time: a GPU for each, and equally many cores."""

import os

import torch

from matl_scale.device import choose_cpu
from matl_scale.errors import InputError
from matl_scale.sweep.share import GPUS, Share


def share_machine(parallel: int, num_runs: int) -> list[Share]:
    """Divides the machine between runs at a time; equally, so that a minute is worth the same in each of them.

    Args:
        parallel: How many there are; 0 means one per GPU, or on CPUs one per core.
        num_runs: How many runs there are in all.

    Raises:
        InputError: There are more than cores, and no GPU.
    """
    cores, gpus = sorted(os.sched_getaffinity(0)), list_gpus()
    number = min(parallel or len(gpus) or len(cores), max(num_runs, 1))
    if number > len(cores) and not gpus:
        raise InputError(f"`--parallel` should be at most the number of cores, {len(cores)}. Got {parallel}.")
    each = max(len(cores) // number, 1)
    return [
        Share(
            cores=frozenset(cores[(i * each + j) % len(cores)] for j in range(each)),
            gpu=gpus[i % len(gpus)] if gpus else "",
        )
        for i in range(number)
    ]


def list_gpus() -> list[str]:
    """Returns the GPUs of this process, as CUDA_VISIBLE_DEVICES names them."""
    if choose_cpu():
        return []
    visible = os.environ.get(GPUS, "")
    return visible.split(",") if visible else [str(i) for i in range(torch.cuda.device_count())]
