"""Run-level metrics between two records: loss, throughput, waiting, memory."""

import contextlib
import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch

from matl_scale.train.step.train_step import StepResult


@dataclass
class Tally:
    """Sums over steps. A checkpoint keeps them, so that the next record does not depend on whether the run was stopped."""

    losses: list[float] = field(default_factory=list)  # losses of the slots with labels since the last record
    norms: list[float] = field(default_factory=list)  # gradient norms since the last record
    labelled: float = 0.0  # samples with a label of their route since the last record
    labels: int = 0  # labels since the last record
    steps: int = 0  # steps since the last record
    skipped: int = 0  # skipped steps of the whole run
    damaged: int = 0  # damaged images met in the whole run

    def add(self, result: StepResult) -> None:
        """Adds one step."""
        ran = result.sync.labelled > 0
        self.losses += result.sync.losses[ran].tolist()
        self.norms.append(result.grad_norm)
        self.labelled += float(result.sync.labelled.sum())
        self.labels += int(result.sync.labels.sum())
        self.steps += 1
        self.skipped += int(result.skipped)
        self.damaged += int(result.sync.damaged.sum())

    def summarise_and_reset(self, images_per_step: int) -> dict[str, float]:
        """Returns the metrics since the last record, means without skipped steps, and starts again."""
        metrics = {
            "train/loss": finite_mean(self.losses),
            "train/grad_norm": finite_mean(self.norms),
            "train/labelled_share": self.labelled / max(self.steps * images_per_step, 1),
            "train/labels_per_image": self.labels / max(self.labelled, 1),
            "train/skipped_steps": float(self.skipped),
            "train/damaged_images": float(self.damaged),
        }
        self.losses, self.norms, self.labelled, self.labels, self.steps = [], [], 0.0, 0, 0
        return metrics


def finite_mean(values: list[float]) -> float:
    finite = [value for value in values if np.isfinite(value)]
    return float(np.mean(finite)) if finite else float("nan")


class Meter:
    """Measures the steps of this process until `record` is called.

    `images_per_step` counts the images of all ranks, as if no route had fewer samples than a batch.
    """

    def __init__(self, tally: Tally, images_per_step: int) -> None:
        self.tally, self.images_per_step = tally, images_per_step
        self.loss = float("nan")  # of the last step
        self._reset()

    def _reset(self) -> None:
        self._start = time.perf_counter()
        self._steps, self._labelled, self._labels, self._wait_s, self._sync_bytes = 0, 0.0, 0, 0.0, 0

    def update(self, result: StepResult) -> None:
        """Adds one step."""
        ran = result.sync.labelled > 0
        self.loss = float(result.sync.losses[ran].mean()) if ran.any() else float("nan")
        self.tally.add(result)
        self._steps += 1
        self._labelled += float(result.sync.labelled.sum())
        self._labels += int(result.sync.labels.sum())
        self._wait_s += result.data_wait_s
        self._sync_bytes = result.sync.num_bytes

    @property
    def images_per_s(self) -> float:
        return self._labelled / max(time.perf_counter() - self._start, 1e-9)

    @property
    def labels_per_s(self) -> float:
        return self._labels / max(time.perf_counter() - self._start, 1e-9)

    @property
    def step_s(self) -> float:
        """Seconds per step since the last record."""
        return (time.perf_counter() - self._start) / max(self._steps, 1)

    @property
    def wait_share(self) -> float:
        """Share of the time, 0 to 1, that this rank waited for batches."""
        return self._wait_s / max(time.perf_counter() - self._start, 1e-9)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves the time of the block (an evaluation, a checkpoint) out of the throughput."""
        start = time.perf_counter()
        yield
        self._start += time.perf_counter() - start

    def record(self) -> dict[str, float]:
        """Returns the metrics since the last call and starts again."""
        metrics = {
            "train/images_per_s": self.images_per_s,
            "train/labels_per_s": self.labels_per_s,
            "train/step_s": self.step_s,
            "train/data_wait_share": self.wait_share,
            "train/sync_bytes": float(self._sync_bytes),
            "train/memory_gb": memory_gb(),
        }
        self._reset()
        return self.tally.summarise_and_reset(self.images_per_step) | metrics


def memory_gb() -> float:
    """Returns the peak memory of this process in 10⁹ bytes: the GPU's if there is one, else the host's."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
