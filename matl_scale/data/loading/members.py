"""The samples that carry a label for a route, or a class of a task, in their order: how many there are, and which is the n-th."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from matl_scale.data.shards.layout import MISSING

BLOCK = 2048


class Members:
    """Finds the n-th of the samples that `match` chooses: it gets a block of samples, as a slice, and returns bools.

    Only counts per block are in memory: all indices of 300 tasks among ten million samples would fill gigabytes in every
    process.
    """

    def __init__(self, num_samples: int, match: Callable[[slice], np.ndarray]) -> None:
        self.match = match
        counts = [np.count_nonzero(match(slice(start, start + BLOCK))) for start in range(0, num_samples, BLOCK)]
        self.ends = np.cumsum(counts)

    @property
    def count(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def find(self, numbers: np.ndarray) -> np.ndarray:
        """Returns the indices of the samples with some numbers, each from 0 to `count` − 1."""
        blocks = np.searchsorted(self.ends, numbers, side="right")
        indices = np.empty(len(numbers), dtype=np.int64)
        for block in np.unique(blocks).tolist():
            chosen = blocks == block
            first = int(self.ends[block - 1]) if block else 0
            start = block * BLOCK
            found = np.flatnonzero(self.match(slice(start, start + BLOCK)))
            indices[chosen] = start + found[numbers[chosen] - first]
        return indices


def find_labelled(labels: np.ndarray, tasks: Sequence[int]) -> Members:
    """Returns the samples with a label for one of several tasks, from labels of shape `(num_samples, num_tasks)`."""
    if len(tasks) == 1:
        return Members(len(labels), partial(has_label, labels[:, tasks[0]]))
    # a bit per sample: looking through the labels of a thousand tasks for each batch would take longer than training on it
    starts = range(0, len(labels), BLOCK)
    found = [(labels[start : start + BLOCK][:, tasks] != MISSING).any(axis=1) for start in starts]
    bits = np.packbits(np.concatenate(found)) if found else np.zeros(0, dtype=np.uint8)
    return Members(len(labels), partial(has_bit, bits))


def find_all(num_samples: int) -> Members:
    """Returns all samples."""
    return Members(num_samples, partial(is_sample, num_samples))


def find_class(column: np.ndarray, value: int, fill: int = MISSING) -> Members:
    """Returns the samples of a class, from the labels of its task, shape `(num_samples,)`, whose missing ones count as `fill`."""
    return Members(len(column), partial(has_class, column, value, fill == value))


def has_class(column: np.ndarray, value: int, or_missing: bool, block: slice) -> np.ndarray:
    labels = column[block]
    return np.asarray((labels == value) | (labels == MISSING)) if or_missing else np.asarray(labels == value)


def is_sample(num_samples: int, block: slice) -> np.ndarray:
    return np.ones(len(range(num_samples)[block]), dtype=bool)


def has_label(column: np.ndarray, block: slice) -> np.ndarray:
    return np.asarray(column[block] != MISSING)


def has_bit(bits: np.ndarray, block: slice) -> np.ndarray:
    """Reads bits as `np.packbits` wrote them; `block` begins at a whole byte."""
    return np.unpackbits(bits[block.start // 8 : -(-block.stop // 8)])
