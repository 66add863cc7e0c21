"""Labels of tasks that few samples have: only the labels that there are, two or four bytes each, sorted by sample.

An entry holds a sample's place in its block in the upper bits and the label's class in the lower ones, so that entries of a
block ascend. How many bits a class takes depends on the task; the rest of the entry says how many samples a block has.
"""

from typing import NamedTuple

import numpy as np

from matl_scale.data.shards.layout import MISSING

SEARCHED_TOGETHER = 1 << 18  # pairs of a sample and a task
NEAR = 16  # samples that spread over less than so many times their number are neighbours


class SparseColumn(NamedTuple):
    """The labels of one task.

    Attributes:
        entries: Of all its labels, uint16 or uint32.
        starts: Index of the first entry of each block, and behind them the number of entries, uint32.
        bits: How many bits of an entry are the class.
    """

    entries: np.ndarray
    starts: np.ndarray
    bits: int


def encode_column(
    sample_ids: np.ndarray, classes: np.ndarray, num_samples: int, bits: int, dtype: np.dtype
) -> SparseColumn:
    """Encodes the labels of a task, given by ascending ids of samples and their classes."""
    shift = dtype.itemsize * 8 - bits
    ids = sample_ids.astype(np.int64)
    entries = ((ids & ((1 << shift) - 1)) << bits | classes.astype(np.int64)).astype(dtype)
    edges = np.arange(count_blocks(num_samples, bits, dtype) + 1) << shift
    return SparseColumn(entries, np.searchsorted(ids, edges).astype(np.uint32), bits)


def count_blocks(num_samples: int, bits: int, dtype: np.dtype) -> int:
    """Returns the number of blocks of a column."""
    return max(1, -(-num_samples >> (dtype.itemsize * 8 - bits)))


class SparseColumns:
    """The labels of some tasks. Samples are given by their ids.

    Args:
        entries: Of all columns, one after the other.
        starts: Of all columns, one after the other.
        lengths: Number of entries of each column, shape `(num_columns,)`.
        bits: Of each column, shape `(num_columns,)`.
        num_samples: Of the set.
    """

    def __init__(
        self, entries: np.ndarray, starts: np.ndarray, lengths: np.ndarray, bits: np.ndarray, num_samples: int
    ) -> None:
        self.entries_of_all, self.starts, self.num_samples = entries, starts, num_samples
        self.lengths, self.bits = lengths.astype(np.int64), bits.astype(np.int64)
        self.shifts = entries.itemsize * 8 - self.bits
        self.num_blocks = np.maximum(1, -(-num_samples >> self.shifts))
        self.first_entry = np.concatenate([[0], np.cumsum(self.lengths)])[:-1]
        self.first_start = np.concatenate([[0], np.cumsum(self.num_blocks + 1)])[:-1]

    @property
    def nbytes(self) -> int:
        return int(self.entries_of_all.nbytes + self.starts.nbytes)

    def at(self, sample_ids: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Returns labels, int32, shape `(num_samples, num_columns)`."""
        labels = np.full((len(sample_ids), len(columns)), MISSING, dtype=np.int32)
        if not len(sample_ids):
            return labels
        span = int(sample_ids[-1] - sample_ids[0]) + 1
        if span < NEAR * len(sample_ids) and (np.diff(sample_ids) > 0).all():
            self._read_near(sample_ids, columns, labels)
            return labels
        step = max(1, SEARCHED_TOGETHER // len(sample_ids))
        for first in range(0, len(columns), step):
            labels[:, first : first + step] = self._look_up(sample_ids, columns[first : first + step])
        return labels

    def read(self, column: int, start: int, stop: int) -> np.ndarray:
        """Returns the labels of neighbouring samples, int32, shape `(stop − start,)`."""
        labels = np.full(stop - start, MISSING, dtype=np.int32)
        found, classes = self.entries(column, start, stop)
        labels[found - start] = classes
        return labels

    def mark(self, column: int, start: int, marks: np.ndarray) -> None:
        """Marks which of the samples from `start` on have a label, in a bool for each."""
        marks[self.entries(column, start, start + len(marks))[0] - start] = True

    def entries(self, column: int, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the ids of neighbouring samples that have a label, ascending, and their classes."""
        low, high = 0, int(self.lengths[column])
        if start > 0 or stop < self.num_samples:
            low, high = self.count_before(np.array([column]), np.array([start, stop]))[0].tolist()
        starts, shift, bits = self._starts_of(column), int(self.shifts[column]), int(self.bits[column])
        block, last = start >> shift, min(-(-stop >> shift), len(starts) - 1)
        counts: np.ndarray = np.diff(np.clip(starts[block : last + 1].astype(np.int64), low, high))
        first = int(self.first_entry[column])
        entries = self.entries_of_all[first + low : first + high].astype(np.int64)
        blocks = np.repeat(np.arange(block, last), counts)
        return (blocks << shift) + (entries >> bits), entries & ((1 << bits) - 1)

    def count_classes(self, column: int, start: int, stop: int, num_classes: int) -> np.ndarray:
        """Counts the labels of neighbouring samples by class, as `np.bincount` does with `num_classes` at least."""
        return np.bincount(self.entries(column, start, stop)[1], minlength=num_classes)

    def count_before(self, columns: np.ndarray, sample_ids: np.ndarray) -> np.ndarray:
        """Returns how many samples before some others have a label, shape `(num_columns, num_sample_ids)`."""
        return np.asarray(self._search(sample_ids, columns)[0] - self.first_entry[columns][:, None])

    def find(self, column: int, numbers: np.ndarray) -> np.ndarray:
        """Returns the ids of the samples that are the n-th with a label, for several n from 0 on."""
        blocks = np.searchsorted(self._starts_of(column), numbers, side="right") - 1
        entries = self.entries_of_all[self.first_entry[column] + numbers].astype(np.int64)
        return np.asarray((blocks << self.shifts[column]) + (entries >> self.bits[column]))

    def _starts_of(self, column: int) -> np.ndarray:
        first = int(self.first_start[column])
        return self.starts[first : first + int(self.num_blocks[column]) + 1]

    def _search(self, sample_ids: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Finds the first entry that does not belong to a sample before `sample_ids`, by bisection within its block.

        Returns:
            Its index in `entries_of_all`, where its block ends, and what the sample's entry is with class 0, each of shape
            `(num_columns, num_sample_ids)`.
        """
        shifts = self.shifts[columns][:, None]
        blocks = np.minimum(sample_ids >> shifts, self.num_blocks[columns][:, None] - 1)
        keys = (sample_ids - (blocks << shifts)) << self.bits[columns][:, None]
        starts = self.first_start[columns][:, None] + blocks
        first, last = self.first_entry[columns][:, None], max(len(self.entries_of_all) - 1, 0)
        low, ends = first + self.starts[starts], first + self.starts[starts + 1]
        high = ends
        for _ in range(int((high - low).max(initial=0)).bit_length()):
            middle = (low + high) >> 1
            is_before = (low < high) & (self.entries_of_all[np.minimum(middle, last)] < keys)
            low, high = np.where(is_before, middle + 1, low), np.where(is_before, high, middle)
        return low, ends, keys

    def _look_up(self, sample_ids: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Returns labels of any samples, shape `(num_samples, num_columns)`."""
        found, ends, keys = self._search(sample_ids, columns)
        if not len(self.entries_of_all):
            return np.full(found.T.shape, MISSING)
        entries = self.entries_of_all[np.minimum(found, len(self.entries_of_all) - 1)].astype(np.int64)
        classes = entries - keys
        is_label = (found < ends) & (classes < 1 << self.bits[columns][:, None])
        return np.asarray(np.where(is_label, classes, MISSING).T)

    def _read_near(self, sample_ids: np.ndarray, columns: np.ndarray, labels: np.ndarray) -> None:
        """Fills in the labels of ascending samples that are near each other, with all entries between the first and the last."""
        first, last = int(sample_ids[0]), int(sample_ids[-1]) + 1
        row_of = np.full(last - first, -1)
        row_of[sample_ids - first] = np.arange(len(sample_ids))
        for shift in np.unique(self.shifts[columns]).tolist():
            chosen = np.flatnonzero(self.shifts[columns] == shift)
            bits = self.entries_of_all.itemsize * 8 - shift
            for block in range(first >> shift, ((last - 1) >> shift) + 1):
                bounds = np.array([max(first, block << shift), min(last, (block + 1) << shift)])
                low, high = self.count_before(columns[chosen], bounds).T
                lengths = high - low
                offsets = np.repeat(self.first_entry[columns[chosen]] + low - (np.cumsum(lengths) - lengths), lengths)
                entries = self.entries_of_all[offsets + np.arange(len(offsets))].astype(np.int64)
                rows = row_of[(block << shift) + (entries >> bits) - first]
                is_asked = rows >= 0
                labels[rows[is_asked], np.repeat(chosen, lengths)[is_asked]] = (entries & ((1 << bits) - 1))[is_asked]
