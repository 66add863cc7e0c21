"""Labels of tasks that most samples have: a cell for each sample, task after task."""

import numpy as np

from matl_scale.data.shards.layout import MISSING

BLOCK = 2048  # samples of which the labels are counted together
CHUNK = 1 << 20  # samples that are looked at together, so that what is made of them stays small


class DenseColumns:
    """The labels of some tasks in an array of shape `(num_columns, num_samples)`, −1 = none. Samples are given by their ids.

    Args:
        array: The labels; it may be mapped from a file.
        ends: Number of labels up to the end of each block of `BLOCK` samples, shape `(num_columns, num_blocks)`; counted when
            needed if None.
    """

    def __init__(self, array: np.ndarray, ends: np.ndarray | None = None) -> None:
        self.array = array
        self._ends: dict[int, np.ndarray] = {} if ends is None else dict(enumerate(ends))

    @property
    def num_samples(self) -> int:
        return int(self.array.shape[1])

    @property
    def nbytes(self) -> int:
        return int(self.array.nbytes)

    def at(self, sample_ids: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Returns labels, shape `(num_samples, num_columns)`."""
        return np.asarray(self.array[columns[:, None], sample_ids].T)

    def read(self, column: int, start: int, stop: int) -> np.ndarray:
        """Returns the labels of neighbouring samples, shape `(stop − start,)`; it is not a copy."""
        return np.asarray(self.array[column, start:stop])

    def mark(self, column: int, start: int, marks: np.ndarray) -> None:
        """Marks which of the samples from `start` on have a label, in a bool for each."""
        for first in range(0, len(marks), CHUNK):
            part = marks[first : first + CHUNK]
            part |= self.array[column, start + first : start + first + len(part)] != MISSING

    def entries(self, column: int, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the ids of neighbouring samples that have a label, ascending, and their classes."""
        labels = self.read(column, start, stop)
        found = np.flatnonzero(labels != MISSING)
        return found + start, labels[found]

    def count_classes(self, column: int, start: int, stop: int, num_classes: int) -> np.ndarray:
        """Counts the labels of neighbouring samples by class, as `np.bincount` does with `num_classes` at least."""
        counts = np.zeros(num_classes, dtype=np.int64)
        for first in range(start, stop, CHUNK):
            labels = self.read(column, first, min(first + CHUNK, stop))
            found = np.bincount(labels[labels != MISSING], minlength=len(counts))
            found[: len(counts)] += counts
            counts = found
        return counts

    def count_before(self, columns: np.ndarray, sample_ids: np.ndarray) -> np.ndarray:
        """Returns how many samples before some others have a label, shape `(num_columns, num_sample_ids)`."""
        counts = np.zeros((len(columns), len(sample_ids)), dtype=np.int64)
        for row, column in enumerate(columns.tolist()):
            ends = self._block_ends(column)
            for i, sample_id in enumerate(sample_ids.tolist()):
                block, rest = divmod(sample_id, BLOCK)
                before = int(ends[block - 1]) if block else 0
                labels = self.read(column, sample_id - rest, sample_id)
                counts[row, i] = before + np.count_nonzero(labels != MISSING)
        return counts

    def find(self, column: int, numbers: np.ndarray) -> np.ndarray:
        """Returns the ids of the samples that are the n-th with a label, for several n from 0 on."""
        ends = self._block_ends(column)
        blocks = np.searchsorted(ends, numbers, side="right")
        sample_ids = np.empty(len(numbers), dtype=np.int64)
        for block in np.unique(blocks).tolist():
            chosen = blocks == block
            first = int(ends[block - 1]) if block else 0
            found = np.flatnonzero(self.read(column, block * BLOCK, (block + 1) * BLOCK) != MISSING)
            sample_ids[chosen] = block * BLOCK + found[numbers[chosen] - first]
        return sample_ids

    def _block_ends(self, column: int) -> np.ndarray:
        if column not in self._ends:
            self._ends[column] = count_block_ends(self.array[column])
        return self._ends[column]


def count_block_ends(labels: np.ndarray) -> np.ndarray:
    """Returns how many of the labels of a task are present up to the end of each block, uint32, shape `(num_blocks,)`."""
    whole = len(labels) // BLOCK * BLOCK
    counts = [
        np.count_nonzero(labels[first : min(first + CHUNK, whole)].reshape(-1, BLOCK) != MISSING, axis=1)
        for first in range(0, whole, CHUNK)
    ]
    if whole < len(labels):
        counts.append(np.array([np.count_nonzero(labels[whole:] != MISSING)]))
    return np.cumsum(np.concatenate(counts) if counts else np.zeros(0)).astype(np.uint32)
