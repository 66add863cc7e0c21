"""Which samples are read where, and in which order: pure functions of the seed, so that resuming needs only a position.

Training reads one endless sequence of batches that does not depend on the number of ranks or workers: epoch after epoch,
each in another order, cut into batches. Batch g goes to rank g mod W, and there to its workers in turn. So every rank
has as many batches as any other, none runs out, and the same run on other ranks sees the same batches.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from matl_scale.seeds import derive_seed


@dataclass(frozen=True, kw_only=True, eq=False)  # known by identity: the cache below needs a hash
class TrainPlan:
    """The order of training batches.

    An epoch visits the shards in a drawn order, a window of them at a time, and the samples of a window in a drawn
    order: a reader touches few shards at once. The samples that do not fill a last batch rest until the next epoch.

    Attributes:
        seed: The run's seed.
        batch_size: Samples per batch.
        shard_rows: Per shard, the numbers of its rows.
        window: Number of shards whose samples are mixed.
    """

    seed: int
    batch_size: int
    shard_rows: Sequence[np.ndarray]
    window: int

    @property
    def num_samples(self) -> int:
        return sum(len(rows) for rows in self.shard_rows)

    @property
    def batches_per_epoch(self) -> int:
        return self.num_samples // self.batch_size

    def batch(self, index: int) -> np.ndarray:
        """Returns the rows of batch `index` of the endless sequence, shape `(batch_size,)`."""
        epoch, position = divmod(index, self.batches_per_epoch)
        start = position * self.batch_size
        return self.epoch_order(epoch)[start : start + self.batch_size]

    def epoch_order(self, epoch: int) -> np.ndarray:
        """Returns all rows in the order of one epoch, shape `(num_samples,)`."""
        return _epoch_order(self, epoch)

    def batches_of(
        self, *, rank: int, world_size: int, worker: int, num_workers: int, first: int
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Yields the batches that one worker of one rank reads, without end.

        Args:
            rank: Of `world_size`.
            world_size: W.
            worker: Of `num_workers`; rank-local batch i is read by worker (i − first) mod num_workers.
            num_workers: At least 1.
            first: The rank-local number of the first batch: how many batches the rank has had already.

        Yields:
            The batch's place in the endless sequence, and its rows.
        """
        local = first + worker
        while True:
            index = local * world_size + rank
            yield index, self.batch(index)
            local += num_workers


@lru_cache(maxsize=2)  # a step at an epoch's end still needs the epoch before
def _epoch_order(plan: TrainPlan, epoch: int) -> np.ndarray:
    generator = np.random.default_rng(derive_seed(plan.seed, "epoch", epoch))
    shards = generator.permutation(len(plan.shard_rows))
    windows = [shards[start : start + plan.window] for start in range(0, len(shards), plan.window)]
    return np.concatenate(
        [generator.permutation(np.concatenate([plan.shard_rows[shard] for shard in window])) for window in windows]
    )


def plan_evaluation(
    rows: np.ndarray, batch_size: int, *, rank: int, world_size: int, worker: int, num_workers: int
) -> list[np.ndarray]:
    """Returns the batches that one worker of one rank evaluates: together, all workers have every row exactly once.

    Ranks get neighbouring rows, so that each reads few shards; their counts differ by at most one.
    """
    mine = np.array_split(rows, world_size)[rank]
    batches = [mine[start : start + batch_size] for start in range(0, len(mine), batch_size)]
    return batches[worker::num_workers]
