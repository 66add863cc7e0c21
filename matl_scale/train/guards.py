"""What stops a run that would train on garbage: numbers that are not finite, and replicas that are no longer equal.

Both are judged from values that all ranks have, so all ranks decide the same.
"""

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from accelerate import Accelerator

from matl_scale.errors import InputError, RunError, shortened
from matl_scale.models import RoutedModel
from matl_scale.train.step import StepResult

NONFINITE_FILE = "nonfinite.csv"
INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by size in bytes
MULTIPLIER = 0x9E3779B1  # odd, so that multiplying by it loses nothing


@dataclass(frozen=True, kw_only=True)
class GuardConfig:
    """When a run stops by itself."""

    max_nonfinite: int = 10
    """Steps in a row whose loss or gradient may be not finite. Each is skipped on all ranks; one more stops the run, and
    nonfinite.csv in its folder lists the samples of that step."""
    replicas_every: int = 500
    """Steps between comparisons of all weights over the ranks (and before each checkpoint); 0 never compares."""
    timeout_s: float = 900.0
    """Longest time in seconds that a rank waits for another one, or for anything else, before it ends with a message."""

    def __post_init__(self) -> None:
        for key, value in (("max_nonfinite", self.max_nonfinite), ("replicas_every", self.replicas_every)):
            if value < 0:
                raise InputError(f"`guard.{key}` should be at least 0. Got {value}.")
        if not self.timeout_s > 0:
            raise InputError(f"`guard.timeout_s` should be above 0. Got {self.timeout_s}.")


class NonfiniteGuard:
    """Counts the steps in a row that were skipped because something in them was not finite.

    Args:
        accelerator: Of the ranks.
        limit: How many there may be.
        tasks: Names.
        key_of: Returns the key of a sample by its row.
        folder: Of the run.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        limit: int,
        tasks: Sequence[str],
        key_of: Callable[[int], str],
        folder: Path,
    ) -> None:
        self.accelerator, self.limit, self.tasks, self.key_of, self.folder = accelerator, limit, tasks, key_of, folder
        self.in_a_row = 0

    def update(self, step: int, result: StepResult) -> str:
        """Takes the result of a step; all ranks have to call it.

        Args:
            step: Steps done.
            result: Of the step.

        Returns:
            What to tell the user about a skipped step, else an empty string.

        Raises:
            RunError: There are too many in a row; on all ranks.
        """
        if not result.skipped:
            self.in_a_row = 0
            return ""
        self.in_a_row += 1
        named = shortened(dict.fromkeys(self.tasks[task_id] for task_id in result.nonfinite))
        if self.in_a_row > self.limit:
            path = self._dump(step, result)
            raise RunError(
                f"{self.in_a_row} steps in a row had a loss or gradient that is not finite (guard.max_nonfinite {self.limit}), "
                f"the last one step {step}, task {named}. Its samples are in {path}. Look at them, or lower `optim.lr`; the run "
                "goes on from its newest checkpoint."
            )
        if result.overflow:  # fp16: the gradient scaler looks for its scale
            return ""
        return (
            f"step {step}: loss or gradient of task {named} is not finite; the step is skipped on all ranks "
            f"({self.in_a_row} in a row)"
        )

    def _dump(self, step: int, result: StepResult) -> Path:
        """Lists the samples of a step of all ranks; returns the file."""
        world_size, path = self.accelerator.num_processes, self.folder / NONFINITE_FILE
        keys = [[self.key_of(row) for row in rows.tolist()] for rows in result.rows]
        parts: list[Sequence[Sequence[str]]] = [keys]
        if world_size > 1:
            parts = [()] * world_size
            dist.all_gather_object(parts, keys)
        if self.accelerator.is_main_process:
            with path.open("w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow(("step", "rank", "task", "loss", "suspect", "key"))
                for slot, task_id in enumerate(result.tasks.tolist()):
                    rank, loss = slot % world_size, float(result.sync.losses[slot])
                    suspect = task_id in result.nonfinite
                    for key in parts[rank][slot // world_size]:
                        writer.writerow((step, rank, self.tasks[task_id], loss, suspect, key))
        return path


def compare_replicas(accelerator: Accelerator, model: RoutedModel, step: int) -> None:
    """Compares all parameters and buffers of a network over the ranks by checksums. All ranks have to call it.

    Raises:
        RunError: They differ; on all ranks.
    """
    if accelerator.num_processes == 1:
        return
    names, sums = checksums(model)
    both = torch.stack([sums, ~sums])  # the largest of ~x belongs to the smallest x
    dist.all_reduce(both, op=dist.ReduceOp.MAX)
    different = torch.nonzero(both[0] != ~both[1]).flatten()
    if not len(different):
        return
    first = int(different[0])
    everywhere = [torch.zeros_like(sums[first]) for _ in range(accelerator.num_processes)]
    dist.all_gather(everywhere, sums[first].clone())
    raise RunError(
        f"Replicas differ after step {step}: `{names[first]}`"
        + (f" and {len(different) - 1} more tensors" if len(different) > 1 else "")
        + f" {describe_odd_ranks([int(value) for value in everywhere])}. Memory or GPU of that node may be faulty (see its error "
        "counters), or ranks run on different hardware. Nothing was saved; start again to go on from the newest checkpoint."
    )


def checksums(model: RoutedModel) -> tuple[list[str], torch.Tensor]:
    """Returns the names of all parameters and buffers, and an int64 checksum of the bits of each.

    The sum of the words, each multiplied by its place: any single flipped bit changes it, and so does an exchange.
    """
    state = model.state_dict()
    sums = []
    for value in state.values():
        words = value.detach().contiguous().view(-1)
        words = words.view(INTEGERS[words.element_size()]).long()
        places = torch.arange(1, 2 * len(words), 2, device=words.device) * MULTIPLIER
        sums.append((words * places).sum())
    return list(state), torch.stack(sums)


def describe_odd_ranks(values: Sequence[int]) -> str:
    """Says which ranks hold another value than most, or that there is no majority."""
    counts = {value: values.count(value) for value in values}
    most = max(counts, key=lambda value: counts[value])
    if counts[most] * 2 <= len(values):
        return f"has {len(counts)} different values on {len(values)} ranks"
    odd = [rank for rank, value in enumerate(values) if value != most]
    return f"differs on rank {shortened(odd)} from the {counts[most]} others"
