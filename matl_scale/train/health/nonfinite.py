"""What stops a run that would train on garbage: numbers that are not finite, and replicas that are no longer equal.

Both are judged from values that all ranks have, so all ranks decide the same.
"""

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch.distributed as dist
from accelerate import Accelerator

from matl_scale.data.loading.plan import own_slots
from matl_scale.errors import InputError, RunError, check_at_least, shortened
from matl_scale.train.step.train_step import StepResult


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
        check_at_least(0, {"guard.max_nonfinite": self.max_nonfinite, "guard.replicas_every": self.replicas_every})
        if not self.timeout_s > 0:
            raise InputError(f"`guard.timeout_s` should be above 0. Got {self.timeout_s}.")


class NonfiniteGuard:
    """Counts the steps in a row that were skipped because something in them was not finite: at most `limit`.

    The samples of the step after are listed in `path`, by the key that `key_of` returns for a sample id. `share` is
    `data.share`.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        limit: int,
        routes: Sequence[str],
        key_of: Callable[[int], str],
        path: Path,
        share: int = 1,
    ) -> None:
        self.accelerator, self.limit, self.routes, self.key_of, self.path = accelerator, limit, routes, key_of, path
        self.share = share
        self.in_a_row = 0

    def update(self, step: int, result: StepResult) -> str:
        """Counts a step; all ranks have to call it.

        Returns:
            What to tell the user about a skipped step, else an empty string.

        Raises:
            RunError: There are too many in a row; on all ranks.
        """
        if not result.skipped:
            self.in_a_row = 0
            return ""
        self.in_a_row += 1
        named = shortened(dict.fromkeys(self.routes[route_id] for route_id in result.nonfinite))
        if self.in_a_row > self.limit:
            path = self._list_samples(step, result)
            where = f"step {step}, route {named}" if named else f"step {step}: no scale of the fp16 gradients helped"
            raise RunError(
                f"{self.in_a_row} steps in a row had a loss or gradient that is not finite (guard.max_nonfinite {self.limit}), "
                f"the last one {where}. Its samples are in {path}. Look at them, or lower `optim.lr`; the run resumes from its "
                "newest checkpoint."
            )
        if result.overflow:  # fp16: the gradient scaler looks for its scale
            return ""
        return (
            f"step {step}: loss or gradient of route {named} is not finite; the step is skipped on all ranks "
            f"({self.in_a_row} in a row)"
        )

    def _list_samples(self, step: int, result: StepResult) -> Path:
        """Lists the samples of a step of all ranks; returns the file."""
        world_size, path = self.accelerator.num_processes, self.path
        keys = [[self.key_of(sample_id) for sample_id in sample_ids.tolist()] for sample_ids in result.sample_ids]
        by_rank: list[Sequence[Sequence[str]]] = [keys]
        if world_size > 1:
            by_rank = [()] * world_size
            dist.all_gather_object(by_rank, keys)
        if self.accelerator.is_main_process:
            with path.open("w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow(("step", "rank", "route", "loss", "suspect", "key"))
                routes = result.routes.tolist()
                parts = {
                    slot: (rank, slot_keys)
                    for rank in range(world_size)
                    for slot, slot_keys in zip(
                        own_slots(len(routes), rank, world_size, self.share), by_rank[rank], strict=True
                    )
                }
                for slot, route_id in enumerate(routes):
                    rank, slot_keys = parts[slot]
                    loss, suspect = float(result.sync.losses[slot]), route_id in result.nonfinite
                    writer.writerows((step, rank, self.routes[route_id], loss, suspect, key) for key in slot_keys)
        return path
