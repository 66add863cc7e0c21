"""Compares two ways side by side: interleaved rounds in one process, the ratio of the minima, and the spread of rounds."""

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

Run = Callable[[], object]


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Where and how long to measure.

    Attributes:
        device: Of models and data.
        rounds: Rounds after one that warms up.
        rank: Of this process.
        world_size: Number of processes.
        data: Folders of data sets that are there, by name.
    """

    device: torch.device
    rounds: int
    rank: int = 0
    world_size: int = 1
    data: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One row of the table.

    Attributes:
        suite: The suite's name.
        name: The row's name.
        meaning: What is divided by what, and the goal.
        values: Measures both sides, numerator first: shape `(rounds, 2)`.
        unit: Of the values.
    """

    suite: str
    name: str
    meaning: str
    values: Callable[[Setup], np.ndarray]
    unit: str = "s"

    def run(self, setup: Setup) -> "Result":
        values = self.values(setup)
        gc.collect()  # the two sides hold networks
        return summarise(self.suite, self.name, values)


@dataclass(frozen=True, kw_only=True)
class Result:
    """A measured ratio.

    Attributes:
        suite: The suite's name.
        name: The row's name.
        ratio: Of the minima: what a quiet moment shows.
        median: Of the ratios of single rounds.
        low: Their 10th percentile.
        high: Their 90th percentile.
        rounds: Number of rounds.
        numerator: Its minimum, in the unit of the measure.
        denominator: Likewise.
    """

    suite: str
    name: str
    ratio: float
    median: float
    low: float
    high: float
    rounds: int
    numerator: float
    denominator: float


def timed(build: Callable[[Setup], tuple[Run, Run]]) -> Callable[[Setup], np.ndarray]:
    """Turns the two things to run into their times in interleaved rounds; a first round warms up and does not count."""
    return lambda setup: time_rounds(build(setup), setup)


def time_rounds(pair: Sequence[Run], setup: Setup) -> np.ndarray:
    """Returns seconds, shape `(rounds, 2)`."""
    seconds = np.zeros((setup.rounds + 1, 2))
    for number in range(setup.rounds + 1):
        for side, run in enumerate(pair):
            wait_for_all(setup)
            start = time.perf_counter()
            run()
            wait_for_device(setup)
            seconds[number, side] = time.perf_counter() - start
    return seconds[1:]


def wait_for_device(setup: Setup) -> None:
    if setup.device.type == "cuda":
        torch.cuda.synchronize(setup.device)


def wait_for_all(setup: Setup) -> None:
    """All ranks begin a run together."""
    wait_for_device(setup)
    if dist.is_initialized() and setup.world_size > 1:
        dist.barrier()


def summarise(suite: str, name: str, values: np.ndarray) -> Result:
    """Reduces values of both sides, shape `(rounds, 2)`, to a ratio."""
    ratios = values[:, 0] / values[:, 1]
    low, median, high = np.percentile(ratios, [10, 50, 90])
    return Result(
        suite=suite,
        name=name,
        ratio=float(values[:, 0].min() / values[:, 1].min()),
        median=float(median),
        low=float(low),
        high=float(high),
        rounds=len(values),
        numerator=float(values[:, 0].min()),
        denominator=float(values[:, 1].min()),
    )
