"""Which samples are read where, and in which order: pure functions of the seed, so that resuming needs only a position.

Training is one endless sequence of slots, the same for any number of workers; consecutive slots make a sampling step. A slot
has an active task and that task's n-th batch: every task goes through its own labelled samples, epoch after epoch, each time
in another order. A run that knows how many batches each task has had therefore continues exactly, on any number of ranks.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from matl_scale.data.shards.layout import MISSING, count_labels
from matl_scale.seeds import derive_seed

NO_TASK = -1
ROUNDS = 12
BLOCK = 2048


@dataclass(frozen=True, kw_only=True)
class Slot:
    """A slot of the training sequence: its index, its active task, and which of the task's batches it gets."""

    index: int
    active_task: int
    batch_number: int


@dataclass(frozen=True, kw_only=True)
class PlannedBatch:
    """A batch to be read."""

    sample_ids: np.ndarray  # its samples, shape `(batch,)`
    active_task: int = NO_TASK  # the task that trains on it; `NO_TASK` in evaluation, where a batch serves all tasks
    index: int = -1  # index of its slot in the training sequence; −1 in evaluation


class TaskOrder:
    """The batches of every task: samples that carry its label, each once per epoch of the task.

    A task with fewer samples than a batch has smaller batches. Batch norm needs two samples, so a task with a single one gets
    an unlabelled companion. `balance` has the meaning of `data.balance`.

    Labels are those of all samples, shape `(num_samples, num_tasks)`; sample ids those of the training split, ascending.
    """

    def __init__(
        self, seed: int, batch_size: int, labels: np.ndarray, sample_ids: np.ndarray, balance: float = 0.0
    ) -> None:
        self.seed, self.batch_size, self.balance, self.sample_ids = seed, batch_size, balance, sample_ids
        is_range = len(sample_ids) > 0 and int(sample_ids[-1]) - int(sample_ids[0]) + 1 == len(sample_ids)
        self._labels = labels[int(sample_ids[0]) : int(sample_ids[-1]) + 1] if is_range else labels[sample_ids]
        self._members: dict[tuple[int, int], Members] = {}
        self._weights: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def batch(self, task: int, number: int) -> np.ndarray:
        """Returns the samples of a task's batch `number`, shape `(batch,)`."""
        chosen = self._draw_balanced(task, number) if self.balance else self._draw_in_order(task, number)
        if len(np.unique(chosen)) == 1:
            chosen = np.append(chosen, (chosen[0] + 1) % len(self.sample_ids))
        return np.asarray(self.sample_ids[chosen])

    def class_weights(self, task: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the number of samples of each class of a task, and the share of the draws that each class gets."""
        if task not in self._weights:
            counts = count_labels(self._labels[:, task], 2)
            weights = np.where(counts > 0, counts.astype(float), 1.0) ** (1 - self.balance) * (counts > 0)
            self._weights[task] = counts, weights / max(weights.sum(), 1e-300)
        return self._weights[task]

    def _draw_balanced(self, task: int, number: int) -> np.ndarray:
        counts, weights = self.class_weights(task)
        generator = np.random.default_rng(derive_seed(self.seed, "balance", task, number))
        size = min(self.batch_size, int(counts.sum()))
        classes = generator.choice(len(weights), size=size, p=weights)
        chosen = np.empty(size, dtype=np.int64)
        for value in np.unique(classes).tolist():
            drawn = np.flatnonzero(classes == value)
            members = self._members_of(task, value)
            chosen[drawn] = members.find(generator.integers(members.count, size=len(drawn)))
        return chosen

    def _draw_in_order(self, task: int, number: int) -> np.ndarray:
        """Draws the next samples of the task's endless sequence; a batch may span two epochs."""
        labelled = self._members_of(task)
        count, size = labelled.count, min(self.batch_size, labelled.count)
        positions = np.arange(number * size, (number + 1) * size)
        epochs = positions // count
        shuffled = [
            shuffle(positions[epochs == epoch] % count, count, derive_seed(self.seed, "order", task, epoch))
            for epoch in np.unique(epochs).tolist()
        ]
        return labelled.find(np.concatenate(shuffled))

    def _members_of(self, task: int, value: int | None = None) -> "Members":
        """Returns the samples of a class of a task, or all that carry its label."""
        key = (task, MISSING if value is None else value)
        if key not in self._members:
            self._members[key] = Members(self._labels[:, task], value)
        return self._members[key]


class Members:
    """Finds the n-th label of a class, or of any class (None), in a label column, shape `(num_samples,)`.

    Only counts per block are in memory: all indices of 300 tasks among ten million samples would fill gigabytes in every
    process.
    """

    def __init__(self, column: np.ndarray, value: int | None = None) -> None:
        self.column, self.value = column, value
        starts = range(0, len(column), BLOCK)
        counts = [np.count_nonzero(self._match(column[start : start + BLOCK])) for start in starts]
        self.ends = np.cumsum(counts)

    @property
    def count(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def find(self, numbers: np.ndarray) -> np.ndarray:
        """Returns the indices in the column of the members with some numbers, each from 0 to `count` − 1."""
        blocks = np.searchsorted(self.ends, numbers, side="right")
        indices = np.empty(len(numbers), dtype=np.int64)
        for block in np.unique(blocks).tolist():
            chosen = blocks == block
            first = int(self.ends[block - 1]) if block else 0
            start = block * BLOCK
            found = np.flatnonzero(self._match(self.column[start : start + BLOCK]))
            indices[chosen] = start + found[numbers[chosen] - first]
        return indices

    def _match(self, labels: np.ndarray) -> np.ndarray:
        return np.asarray(labels != MISSING if self.value is None else labels == self.value)


def shuffle(positions: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Returns where a random permutation of `count` items, drawn from `seed`, sends some positions.

    The cost depends on the number of positions, not on `count`: a Feistel network over the next even power of two, repeated
    until it lands below `count` (Black, Rogaway, CT-RSA 2002; as a shuffle: Mitchell et al., 2021, arXiv 2106.06161).
    """
    half = max(1, (max(count - 1, 1).bit_length() + 1) // 2)
    mask = np.uint64((1 << half) - 1)
    keys = np.random.default_rng(seed).integers(0, 2**64, ROUNDS, dtype=np.uint64)
    values = positions.astype(np.uint64)
    outside = np.ones(len(values), dtype=bool)
    while outside.any():
        left, right = values[outside] >> np.uint64(half), values[outside] & mask
        for key in keys:
            left, right = right, left ^ (mix(right ^ key) & mask)
        values[outside] = left << np.uint64(half) | right
        outside = values >= count
    return values.astype(np.int64)


def mix(values: np.ndarray) -> np.ndarray:
    """Scrambles 64-bit numbers: the finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014)."""
    values = (values ^ values >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ values >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return np.asarray(values ^ values >> np.uint64(31))


class SlotPlan:
    """The sequence of slots from the point that a run has reached. With W ranks, slot s of a step belongs to rank s mod W.

    Args:
        tasks_of: Returns the tasks of all slots of a sampling step, shape `(num_slots,)`.
        sampling_step: The first step of the sequence.
        draws: Number of batches that each task has had before that step, shape `(num_tasks,)`.
    """

    def __init__(
        self,
        order: TaskOrder,
        tasks_of: Callable[[int], np.ndarray],
        world_size: int,
        sampling_step: int,
        draws: np.ndarray,
    ) -> None:
        self.order, self.tasks_of, self.world_size, self.sampling_step = order, tasks_of, world_size, sampling_step
        self.draws = draws.copy()

    def batches(self, *, rank: int, worker: int, num_workers: int) -> Iterator[PlannedBatch]:
        """Yields the batches that one worker of one rank reads, without end."""
        for slot in self.slots(rank=rank, worker=worker, num_workers=num_workers):
            sample_ids = self.order.batch(slot.active_task, slot.batch_number)
            yield PlannedBatch(sample_ids=sample_ids, active_task=slot.active_task, index=slot.index)

    def slots(self, *, rank: int, worker: int, num_workers: int) -> Iterator[Slot]:
        """Yields the slots of one worker, without end; the workers of a rank get its slots in rotation."""
        step, draws, num_own = self.sampling_step, self.draws.copy(), 0
        while True:
            tasks = self.tasks_of(step)
            for slot, task in enumerate(tasks.tolist()):
                if slot % self.world_size == rank:
                    if num_own % num_workers == worker:
                        yield Slot(index=step * len(tasks) + slot, active_task=task, batch_number=int(draws[task]))
                    num_own += 1
                draws[task] += 1
            step += 1


def plan_evaluation(
    sample_ids: np.ndarray, batch_size: int, *, rank: int, world_size: int, worker: int, num_workers: int
) -> list[PlannedBatch]:
    """Returns the batches that one worker of one rank evaluates: over all workers, every sample exactly once.

    Each rank gets neighbouring samples, so that it reads few shards; the counts of two ranks differ by at most one.
    """
    mine = np.array_split(sample_ids, world_size)[rank]
    starts = range(0, len(mine), batch_size)[worker::num_workers]
    return [PlannedBatch(sample_ids=mine[start : start + batch_size]) for start in starts]
