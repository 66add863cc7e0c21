"""What an evaluation answers for every sample, collected on each rank and brought to the first one."""

from collections.abc import Iterator

import numpy as np
import torch
import torch.distributed as dist
from accelerate import Accelerator

from matl_scale.data.shards import MISSING

BATCHES_AT_ONCE = 64  # of each rank, on their way to the first one

Answers = tuple[np.ndarray, np.ndarray, np.ndarray]


class AnswerLog:
    """Collects rows, answers and confidences, batch by batch; on the device while a batch is worked on."""

    def __init__(self) -> None:
        self.batches: list[Answers] = []

    def begin(self, shape: tuple[int, ...], device: torch.device) -> None:
        """Begins a batch; `shape` is `(num_samples, num_tasks)`."""
        self._answers = torch.full(shape, MISSING, dtype=torch.int16, device=device)
        self._confidences = torch.full(shape, torch.nan, dtype=torch.float16, device=device)

    def add(self, task_id: int, places: torch.Tensor | None, logits: torch.Tensor) -> None:
        """Adds one task's logits, `(num_places, num_classes)`, for some places of the batch, or for all."""
        answers = logits.argmax(dim=1)
        confidences = logits.float().softmax(dim=1).gather(1, answers[:, None])[:, 0]
        chosen = slice(None) if places is None else places
        self._answers[chosen, task_id] = answers.to(torch.int16)
        self._confidences[chosen, task_id] = confidences.to(torch.float16)

    def end(self, rows: np.ndarray) -> None:
        """Ends a batch of samples, `rows` in the label matrix."""
        self.batches.append((rows, self._answers.cpu().numpy(), self._confidences.cpu().numpy()))


def gather_answers(accelerator: Accelerator, log: AnswerLog) -> Iterator[Answers]:
    """Yields what all ranks have collected, on the first rank; a part of each at a time, so that no copy of all is made."""
    if accelerator.num_processes == 1:
        yield from log.batches
        return
    lengths: list[int] = [0] * accelerator.num_processes
    dist.all_gather_object(lengths, len(log.batches))
    for start in range(0, max(lengths), BATCHES_AT_ONCE):
        mine = log.batches[start : start + BATCHES_AT_ONCE]
        received: list[list[Answers]] | None = [[]] * accelerator.num_processes if accelerator.is_main_process else None
        dist.gather_object(mine, received)
        for part in received or []:
            yield from part
