"""What the automatic choices of a run depend on."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

import psutil
import torch

from matl_scale.device import choose_cpu
from matl_scale.launcher import read_count, read_launch


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What a rank computes with."""

    num_ranks: int  # of the whole run
    cores: int  # CPU cores of each rank
    threads: int  # with which it computes, at most as many
    has_gpu: bool
    memory: int  # bytes that a rank may use: of its GPU, or its share of the host's


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """The data and the machine of a run."""

    num_samples: int  # training samples that carry a label
    num_labels: int  # labels of the training split, filled ones too (`data.missing`)
    image_size: int  # side length in pixels
    machine: Machine


def read_machine(num_ranks: int, ranks_per_node: int | None = None) -> Machine:
    """Returns what each of the ranks of a run like this process computes with.

    Args:
        num_ranks: Of the whole run.
        ranks_per_node: Of this machine; None if the launcher says it.
    """
    here = ranks_per_node or read_launch().local_world_size
    cores, has_gpu = count_cores(), not choose_cpu()
    memory = torch.cuda.get_device_properties(0).total_memory if has_gpu else psutil.virtual_memory().total // here
    cores = max(cores // here, 1)
    threads = min(torch.get_num_threads(), cores)
    return Machine(num_ranks=num_ranks, cores=cores, threads=threads, has_gpu=has_gpu, memory=int(memory))


def count_cores(environment: Mapping[str, str] = os.environ) -> int:
    """Returns the CPU cores that this process, or this Slurm job on this machine, may use."""
    usable = len(os.sched_getaffinity(0))
    return min(read_count("SLURM_CPUS_ON_NODE", 0, environment) or usable, usable)
