"""Which samples are read where, and in which order: pure functions of the seed, so that resuming needs only a position.

Training is one endless sequence of slots that does not depend on the number of workers. A slot has a task, and the task's
n-th batch: every task goes through its own labelled samples, epoch after epoch, each in another order. So a run that knows
how many batches each task has had goes on exactly where it was, on any number of ranks.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from matl_scale.data.shards.layout import MISSING
from matl_scale.seeds import derive_seed

ROUNDS = 12
BLOCK = 2048


@dataclass(frozen=True)
class PlannedBatch:
    """A batch to be read: the slot's place in the endless sequence, its task, and the rows of the label matrix."""

    index: int
    task: int
    rows: np.ndarray


class TaskOrder:
    """The batches of every task: samples that carry its label, each once per epoch of the task.

    A task with fewer samples than a batch has smaller batches. One with a single sample brings an unlabelled one along,
    because batch norm needs two.

    Args:
        seed: The run's seed.
        batch_size: Samples per batch, at most.
        labels: Label matrix of all samples, shape `(num_samples, num_tasks)`.
        rows: Row numbers of the training split, ascending.
        balance: 0 draws every sample equally often; 1 every class of a task; between them, class c in proportion to its
            samples to the power of 1 − balance. Above 0, samples are drawn with replacement.
    """

    def __init__(self, seed: int, batch_size: int, labels: np.ndarray, rows: np.ndarray, balance: float = 0.0) -> None:
        self.seed, self.batch_size, self.balance, self.rows = seed, batch_size, balance, rows
        is_range = len(rows) > 0 and int(rows[-1]) - int(rows[0]) + 1 == len(rows)
        self._labels = labels[int(rows[0]) : int(rows[-1]) + 1] if is_range else labels[rows]
        self._members: dict[tuple[int, int], Members] = {}
        self._weights: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def batch(self, task: int, number: int) -> np.ndarray:
        """Returns the rows of a task's batch `number`, shape `(num_rows,)`."""
        if self.balance:
            rows = self._balanced(task, number)
        else:
            labelled = self._members_of(task)
            size = min(self.batch_size, labelled.count)
            positions = np.arange(number * size, (number + 1) * size)
            rows = self.rows[labelled.take(self._shuffle(task, positions, labelled.count))]
        if len(np.unique(rows)) == 1:
            place = int(np.searchsorted(self.rows, rows[0]))
            rows = np.append(rows, self.rows[(place + 1) % len(self.rows)])
        return rows

    def class_weights(self, task: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the samples of each class of a task, and the share of the draws that each class gets."""
        if task not in self._weights:
            column = self._labels[:, task]
            counts = np.bincount(column[column != MISSING], minlength=2)
            weights = np.where(counts > 0, counts.astype(float), 1.0) ** (1 - self.balance) * (counts > 0)
            self._weights[task] = counts, weights / max(weights.sum(), 1e-300)
        return self._weights[task]

    def _balanced(self, task: int, number: int) -> np.ndarray:
        counts, weights = self.class_weights(task)
        generator = np.random.default_rng(derive_seed(self.seed, "balance", task, number))
        size = min(self.batch_size, int(counts.sum()))
        classes = generator.choice(len(weights), size=size, p=weights)
        rows = np.empty(size, dtype=np.int64)
        for value in np.unique(classes).tolist():
            places = np.flatnonzero(classes == value)
            members = self._members_of(task, value)
            rows[places] = self.rows[members.take(generator.integers(members.count, size=len(places)))]
        return rows

    def _shuffle(self, task: int, positions: np.ndarray, count: int) -> np.ndarray:
        """Returns the places of some positions of the task's endless sequence; a batch may reach over an epoch's end."""
        epochs = positions // count
        return np.concatenate(
            [
                shuffle(positions[epochs == epoch] % count, count, derive_seed(self.seed, "order", task, epoch))
                for epoch in np.unique(epochs).tolist()
            ]
        )

    def _members_of(self, task: int, value: int | None = None) -> "Members":
        """Returns the samples of a class of a task, or all that carry its label."""
        key = (task, MISSING if value is None else value)
        if key not in self._members:
            self._members[key] = Members(self._labels[:, task], value)
        return self._members[key]


class Members:
    """The places of a label column that hold a class, or any label, by their number. Only counts per block are kept: the places
    of 300 tasks among ten million samples would fill gigabytes in every process.

    Args:
        column: Labels, shape `(num_samples,)`.
        value: The class; None for any label.
    """

    def __init__(self, column: np.ndarray, value: int | None = None) -> None:
        self.column, self.value = column, value
        starts = range(0, len(column), BLOCK)
        counts = [np.count_nonzero(self._match(column[start : start + BLOCK])) for start in starts]
        self.ends = np.cumsum(counts)

    @property
    def count(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def take(self, numbers: np.ndarray) -> np.ndarray:
        """Returns the places of the members of some numbers, from 0 to `count` − 1."""
        blocks = np.searchsorted(self.ends, numbers, side="right")
        places = np.empty(len(numbers), dtype=np.int64)
        for block in np.unique(blocks).tolist():
            chosen = blocks == block
            first = int(self.ends[block - 1]) if block else 0
            start = block * BLOCK
            found = np.flatnonzero(self._match(self.column[start : start + BLOCK]))
            places[chosen] = start + found[numbers[chosen] - first]
        return places

    def _match(self, part: np.ndarray) -> np.ndarray:
        return part != MISSING if self.value is None else part == self.value


def shuffle(positions: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Returns where a random permutation of `count` items, drawn from `seed`, sends some positions.

    It costs what the positions cost, not what `count` does: a Feistel network over the next even power of two, walked until
    it lands below `count` (Black, Rogaway, CT-RSA 2002; as a shuffle: Mitchell et al., 2021, arXiv 2106.06161).
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
    return values ^ values >> np.uint64(31)


class SlotPlan:
    """The sequence of slots, from where a run stands.

    Args:
        order: The batches of every task.
        tasks_of: The tasks of all slots of a turn, shape `(num_slots,)`.
        world_size: W; slot s of a turn belongs to rank s mod W.
        turn: The first turn.
        draws: Batches that each task has had before it, shape `(num_tasks,)`.
    """

    def __init__(
        self, order: TaskOrder, tasks_of: Callable[[int], np.ndarray], world_size: int, turn: int, draws: np.ndarray
    ) -> None:
        self.order, self.tasks_of, self.world_size, self.turn = order, tasks_of, world_size, turn
        self.draws = draws.copy()

    def batches(self, *, rank: int, worker: int, num_workers: int) -> Iterator[PlannedBatch]:
        """Yields the batches that one worker of one rank reads, without end."""
        for index, task, number in self.slots(rank=rank, worker=worker, num_workers=num_workers):
            yield PlannedBatch(index, task, self.order.batch(task, number))

    def slots(self, *, rank: int, worker: int, num_workers: int) -> Iterator[tuple[int, int, int]]:
        """Yields place, task and the task's batch number of the slots of one worker; a rank's slots go to its workers in turn."""
        turn, draws, local = self.turn, self.draws.copy(), 0
        while True:
            tasks = self.tasks_of(turn)
            for slot, task in enumerate(tasks.tolist()):
                if slot % self.world_size == rank:
                    if local % num_workers == worker:
                        yield turn * len(tasks) + slot, task, int(draws[task])
                    local += 1
                draws[task] += 1
            turn += 1


def plan_evaluation(
    rows: np.ndarray, batch_size: int, *, rank: int, world_size: int, worker: int, num_workers: int
) -> list[np.ndarray]:
    """Returns the batches that one worker of one rank evaluates: together, all workers have every row exactly once.

    Ranks get neighbouring rows, so that each reads few shards; their counts differ by at most one.
    """
    mine = np.array_split(rows, world_size)[rank]
    batches = [mine[start : start + batch_size] for start in range(0, len(mine), batch_size)]
    return batches[worker::num_workers]
