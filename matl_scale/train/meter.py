"""Run-level metrics between two records: loss, throughput, waiting, memory."""

import contextlib
import resource
import time
from collections.abc import Iterator

import numpy as np
import torch

from matl_scale.train.step import StepResult


class Meter:
    """Collects what steps report until `record` is called.

    Args:
        images_per_step: Images that all ranks together train on in a step, if no task has fewer.
    """

    def __init__(self, images_per_step: int) -> None:
        self.images_per_step = images_per_step
        self.loss = float("nan")  # of the last step
        self.skipped_total = 0
        self.damaged_total = 0
        self._reset()

    def _reset(self) -> None:
        self._start = time.perf_counter()
        self._steps, self._wait_s, self._sync_bytes = 0, 0.0, 0
        self._losses: list[float] = []
        self._norms: list[float] = []
        self._labelled = 0.0

    def update(self, result: StepResult) -> None:
        """Adds one step."""
        ran = result.sync.labelled > 0
        self.loss = float(result.sync.losses[ran].mean()) if ran.any() else float("nan")
        self._losses += result.sync.losses[ran].tolist()
        self._labelled += float(result.sync.labelled.sum())
        if result.grad_norm is not None:
            self._norms.append(result.grad_norm)
        self._steps += 1
        self._wait_s += result.data_wait_s
        self._sync_bytes = result.sync.num_bytes
        self.skipped_total += int(result.skipped)
        self.damaged_total += int(result.sync.damaged.sum())

    @property
    def images_per_s(self) -> float:
        return self._labelled / max(time.perf_counter() - self._start, 1e-9)

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
        """Returns the metrics since the last call and starts anew."""
        elapsed_s = time.perf_counter() - self._start
        metrics = {
            "train/loss": float(np.mean(self._losses)) if self._losses else float("nan"),
            "train/images_per_s": self.images_per_s,
            "train/step_s": elapsed_s / max(self._steps, 1),
            "train/data_wait_share": self.wait_share,
            "train/labelled_share": self._labelled / max(self._steps * self.images_per_step, 1),
            "train/sync_bytes": float(self._sync_bytes),
            "train/skipped_steps": float(self.skipped_total),
            "train/damaged_images": float(self.damaged_total),
            "train/memory_gb": memory_gb(),
        }
        if self._norms:
            metrics["train/grad_norm"] = float(np.mean(self._norms))
        self._reset()
        return metrics


def memory_gb() -> float:
    """Returns the peak memory of this process in 10⁹ bytes: the GPU's if there is one, else the host's."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
