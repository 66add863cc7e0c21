"""What the contingency tables of all pairs of tasks say: how far the labels of two tasks are from independent.

The tables of two blocks of tasks are one matrix product: of dense indicator matrices, or of sparse ones where few labels are
present or tasks have many classes. The tables of all pairs are never held at once. A pure function of the labels.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from matl_scale.data.shards.labels import Labels
from matl_scale.data.shards.layout import MISSING

if TYPE_CHECKING:
    from scipy.sparse import csr_array

BLOCK_COLUMNS = 2048  # one per class and task
CHUNK_SAMPLES = 4096
PROBED_SAMPLES = 2000
# What counting may cost, in multiply-adds of a dense product: 4 s where a core makes 50 billion per second.
MAX_OPERATIONS = 2e11
MIN_SAMPLES = 1000  # even where that costs more
MAX_SAMPLES = 1_000_000  # below 2²⁴, up to which float32 counts exactly
SPARSE_COST = 300  # of one multiply-add of a sparse product, as a multiple of a dense one
MAX_CELLS = 2**26  # of the tables of two blocks; beyond, only cells that occur are held


@dataclass(frozen=True, kw_only=True)
class PairStatistics:
    """What the contingency tables of tasks of one block and of another say, each of shape `(num_tasks, num_other_tasks)`.

    Attributes:
        phi_squared: φ²: χ² of independence, divided by the number of samples.
        num_samples: Number of samples with both labels.
        num_classes: Number of classes that occur among them, of the task of the first block.
        num_other_classes: And of the task of the other.
    """

    phi_squared: np.ndarray
    num_samples: np.ndarray
    num_classes: np.ndarray
    num_other_classes: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Block:
    """Tasks that are counted together.

    Attributes:
        labels: Of all samples and tasks.
        samples: The samples that count; None counts all.
        task_ids: The tasks of the block.
        num_classes: The largest number of classes of a task of the block; tables have as many rows for each of its tasks.
    """

    labels: Labels
    samples: np.ndarray | None
    task_ids: np.ndarray
    num_classes: int

    @property
    def num_rows(self) -> int:
        """Number of rows of its tables."""
        return self.num_classes * len(self.task_ids)

    def take(self) -> np.ndarray:
        """Copies the block's labels, shape `(num_tasks, num_samples)`."""
        if self.samples is not None:
            return np.ascontiguousarray(self.labels.at(self.samples, self.task_ids.tolist()).T)
        return np.stack([self.labels.column(task_id) for task_id in self.task_ids.tolist()])

    @cached_property
    def dense(self) -> np.ndarray:
        return self.take()

    @cached_property
    def first_class(self) -> int:
        """1 where no label is missing: the counts of class 0 then follow from the others."""
        return int((self.dense != MISSING).all())

    @cached_property
    def totals(self) -> np.ndarray:
        """Number of samples of each class, shape `(num_classes, num_tasks)`."""
        return np.stack([np.count_nonzero(self.dense == i, axis=1) for i in range(self.num_classes)]).astype(np.float32)

    def indicators(self, samples: slice) -> np.ndarray:
        """Marks the class of each label, from `first_class` on, shape `(num_marked_classes · num_tasks, num_samples)`."""
        classes = np.arange(self.first_class, self.num_classes, dtype=self.dense.dtype)[:, None, None]
        marks: np.ndarray = self.dense[:, samples] == classes
        return marks.astype(np.float32).reshape(-1, marks.shape[-1])

    @cached_property
    def sparse_indicators(self) -> "csr_array":
        """The indicators of all classes, shape `(num_classes · num_tasks, num_samples)`."""
        from scipy.sparse import csr_array  # slow to import

        rows, samples = [], []
        for task, task_id in enumerate(self.task_ids.tolist()):
            indices, classes = self.labels.entries(task_id)
            if self.samples is not None:
                numbers = np.searchsorted(self.samples, indices)
                is_chosen = self.samples[np.minimum(numbers, len(self.samples) - 1)] == indices
                indices, classes = numbers[is_chosen], classes[is_chosen]
            samples.append(indices.astype(np.int32))
            rows.append(classes.astype(np.int32) * len(self.task_ids) + task)
        entries = (np.concatenate(rows), np.concatenate(samples))
        num_samples = self.labels.num_samples if self.samples is None else len(self.samples)
        return csr_array((np.ones(len(entries[0]), dtype=np.float32), entries), shape=(self.num_rows, num_samples))

    @cached_property
    def sparse_transposed(self) -> "csr_array":
        return self.sparse_indicators.T.tocsr()


def spread_evenly(num_samples: int, count: int) -> np.ndarray | None:
    """Chooses `count` evenly spaced samples; None for all if there are no more."""
    return None if count >= num_samples else np.arange(count) * num_samples // count


def cut_blocks(num_classes: np.ndarray, complete: np.ndarray) -> list[np.ndarray]:
    """Cuts tasks into blocks of about `BLOCK_COLUMNS` columns: of similar numbers of classes, and apart where labels are missing.

    Args:
        num_classes: Of each task, shape `(num_tasks,)`.
        complete: Whether no label of a task is missing, bool, shape `(num_tasks,)`.
    """
    blocks = []
    for task_ids in (np.flatnonzero(complete), np.flatnonzero(~complete)):
        left = task_ids[np.argsort(num_classes[task_ids], kind="stable")]
        while len(left):
            columns = num_classes[left] * np.arange(1, len(left) + 1)
            size = max(1, int(np.searchsorted(columns, BLOCK_COLUMNS, side="right")))
            blocks.append(left[:size])
            left = left[size:]
    return blocks


def measure_pairs(labels: Labels, num_classes: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, PairStatistics]]:
    """Measures all pairs of tasks, block by block.

    Of a large set it takes evenly spaced samples: as many as `MAX_OPERATIONS` allows, so more where labels are sparse.

    Args:
        labels: Of all tasks.
        num_classes: Of each task, shape `(num_tasks,)`.

    Yields:
        The tasks of one block, the tasks of the same or a later one, and what was measured of their pairs.
    """
    probed = spread_evenly(labels.num_samples, PROBED_SAMPLES)
    present = labels.at(np.arange(labels.num_samples) if probed is None else probed) != MISSING
    complete = present.all(axis=0)
    cut = cut_blocks(num_classes, complete)
    largest = [int(num_classes[task_ids].max()) for task_ids in cut]
    columns = np.array([(most - complete[ids[0]]) * len(ids) for most, ids in zip(largest, cut, strict=True)])
    per_sample = np.array([present[:, ids].sum(axis=1) for ids in cut], dtype=np.float64)
    dense_cost = np.multiply.outer(columns, columns)
    sparse_cost = SPARSE_COST * (per_sample @ per_sample.T) / max(len(present), 1)
    cost = np.triu(np.minimum(dense_cost, sparse_cost)).sum()
    samples = spread_evenly(labels.num_samples, int(np.clip(MAX_OPERATIONS / max(cost, 1), MIN_SAMPLES, MAX_SAMPLES)))
    blocks = [
        Block(labels=labels, samples=samples, task_ids=ids, num_classes=most)
        for most, ids in zip(largest, cut, strict=True)
    ]
    for i, one in enumerate(blocks):
        for j, other in enumerate(blocks[i:], start=i):
            if one.num_rows * other.num_rows > MAX_CELLS:
                statistics = measure_one_by_one(one, other)
            else:
                is_dense = dense_cost[i, j] <= sparse_cost[i, j]
                statistics = measure_tables(count_dense(one, other) if is_dense else count_sparse(one, other))
            yield one.task_ids, other.task_ids, statistics


def count_dense(one: Block, other: Block) -> np.ndarray:
    """Counts the samples with class i of a task of `one` and class j of a task of `other`.

    Returns:
        float32, shape `(num_classes, num_tasks, num_other_classes, num_other_tasks)`. Classes that a task lacks count 0.
    """
    product = np.float32(0)
    for first in range(0, one.dense.shape[1], CHUNK_SAMPLES):
        samples = slice(first, first + CHUNK_SAMPLES)
        product = product + one.indicators(samples) @ other.indicators(samples).T
    marked = other.totals[other.first_class :]
    counts = np.reshape(product, (-1, len(one.task_ids), *marked.shape))
    if one.first_class:
        counts = np.concatenate([marked - counts.sum(axis=0, keepdims=True), counts])
    if other.first_class:
        first_counts = one.totals[:, :, None, None] - counts.sum(axis=2, keepdims=True)
        counts = np.concatenate([first_counts, counts], axis=2)
    return counts


def count_sparse(one: Block, other: Block) -> np.ndarray:
    """Counts like `count_dense`."""
    counts: np.ndarray = (one.sparse_indicators @ other.sparse_transposed).toarray()
    return counts.reshape(one.num_classes, len(one.task_ids), other.num_classes, len(other.task_ids))


def measure_tables(counts: np.ndarray) -> PairStatistics:
    """Measures all pairs of tasks of two blocks from their counts, as `count_dense` returns them."""
    totals, other_totals = counts.sum(axis=2), counts.sum(axis=0)
    num_samples = totals.sum(axis=0)
    shares = other_totals / np.maximum(num_samples, 1)[:, None]
    weights = 1 / np.maximum(other_totals, 1)
    phi_squared = np.zeros_like(num_samples)
    for class_counts, class_totals in zip(counts, totals, strict=True):  # one class at a time stays in the cache
        # deviations, not the shorter Σ counts² / (totals · other totals) − 1, whose small difference float32 would lose
        deviations = class_counts - class_totals[:, None] * shares
        deviations *= deviations
        deviations *= weights
        phi_squared += deviations.sum(axis=1) / np.maximum(class_totals, 1)
    return PairStatistics(
        phi_squared=phi_squared,
        num_samples=num_samples,
        num_classes=np.count_nonzero(totals, axis=0),
        num_other_classes=np.count_nonzero(other_totals, axis=1),
    )


def measure_one_by_one(one: Block, other: Block) -> PairStatistics:
    """Measures like `measure_tables`, from the cells that occur: two tasks of 50,000 classes have a table of 10 GB."""
    statistics = np.zeros((4, len(one.task_ids), len(other.task_ids)))
    other_labels = other.take()
    for i, first in enumerate(one.take()):
        for j, second in enumerate(other_labels):
            both = (first != MISSING) & (second != MISSING)
            codes = first[both].astype(np.int64) * other.num_classes + second[both]
            cells, counts = np.unique(codes, return_counts=True)
            rows, columns = np.divmod(cells, other.num_classes)
            totals, other_totals = np.bincount(rows, counts), np.bincount(columns, counts)
            phi_squared = (counts / totals[rows] * (counts / other_totals[columns])).sum() - 1
            sizes = (len(codes), np.count_nonzero(totals), np.count_nonzero(other_totals))
            statistics[:, i, j] = (phi_squared, *sizes)
    return PairStatistics(
        phi_squared=statistics[0],
        num_samples=statistics[1],
        num_classes=statistics[2],
        num_other_classes=statistics[3],
    )
