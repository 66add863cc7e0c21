"""A figure compares two workloads side by side: interleaved rounds in one process, the ratio of the minima, and the spread of
the rounds."""

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

Workload = Callable[[], object]


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """Where and how long to measure."""

    device: torch.device
    rounds: int  # after one that warms up
    rank: int = 0
    world_size: int = 1
    data: Mapping[str, Path] = field(default_factory=dict)  # folders of data sets, by name


@dataclass(frozen=True, kw_only=True)
class Result:
    """A measured ratio of two minima, which are what a machine without other work shows."""

    suite: str
    name: str  # of the figure
    ratio: float
    median: float  # of the ratios of single rounds
    low: float  # their 10th percentile
    high: float  # their 90th percentile
    rounds: int
    numerator: float  # its minimum, in the unit of the figure
    denominator: float


@dataclass(frozen=True)
class Figure:
    """One row of the table."""

    name: str
    meaning: str  # what is divided by what, and the goal
    values: Callable[[Conditions], np.ndarray]  # measures both workloads, numerator first: shape (rounds, 2)
    unit: str = "s"

    def measure(self, suite: str, conditions: Conditions) -> Result:
        """Measures both workloads and compares them, as a figure of a suite."""
        values = self.values(conditions)
        gc.collect()  # the two workloads hold networks
        ratios = values[:, 0] / values[:, 1]
        low, median, high = np.percentile(ratios, [10, 50, 90])
        numerator, denominator = values.min(axis=0).tolist()
        return Result(
            suite=suite,
            name=self.name,
            ratio=numerator / denominator,
            median=float(median),
            low=float(low),
            high=float(high),
            rounds=len(values),
            numerator=numerator,
            denominator=denominator,
        )


def timed(build: Callable[[Conditions], tuple[Workload, Workload]]) -> Callable[[Conditions], np.ndarray]:
    """Returns a function for `Figure.values` that builds two workloads and times them."""
    return lambda conditions: time_rounds(build(conditions), conditions)


def time_rounds(pair: Sequence[Workload], conditions: Conditions) -> np.ndarray:
    """Returns the seconds of two workloads in interleaved rounds, shape `(rounds, 2)`. A first round warms up."""
    seconds = np.zeros((conditions.rounds + 1, 2))
    for number in range(conditions.rounds + 1):
        for side, run in enumerate(pair):
            wait_for_device(conditions)
            if dist.is_initialized() and conditions.world_size > 1:
                dist.barrier()  # so that all ranks begin a workload together
            start = time.perf_counter()
            run()
            wait_for_device(conditions)
            seconds[number, side] = time.perf_counter() - start
    return seconds[1:]


def wait_for_device(conditions: Conditions) -> None:
    if conditions.device.type == "cuda":
        torch.cuda.synchronize(conditions.device)
