"""The samples that carry a label for a route, or a class of a task, in their order: how many there are, and which is the n-th."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import numpy as np

from matl_scale.data.shards.label_marks import Marks, mark_labelled
from matl_scale.data.shards.labels import Labels
from matl_scale.data.shards.layout import MISSING

BLOCK = 2048  # samples that are matched together
COUNTED_AT_ONCE = 128 * BLOCK


class Members(Protocol):
    """Some samples in their order."""

    @property
    def count(self) -> int: ...

    def find(self, numbers: np.ndarray) -> np.ndarray:
        """Returns the indices of the samples with some numbers, each from 0 to `count` − 1."""
        ...


class Labelled:
    """The samples with a label for a task."""

    def __init__(self, labels: Labels, task: int) -> None:
        self.labels, self.task, self.count = labels, task, labels.count_samples([task])

    def find(self, numbers: np.ndarray) -> np.ndarray:
        """Returns the indices of the samples with some numbers."""
        return self.labels.find(self.task, numbers)


class Matching:
    """The samples that `match` chooses: it gets a block of samples, as a slice, and returns bools.

    Only counts per block are in memory: all indices of 300 tasks among ten million samples would fill gigabytes in every
    process.
    """

    def __init__(self, num_samples: int, match: Callable[[slice], np.ndarray]) -> None:
        self.match = match
        counts = []
        for start in range(0, num_samples, COUNTED_AT_ONCE):
            found = match(slice(start, start + COUNTED_AT_ONCE))
            counts.append(np.add.reduceat(found, np.arange(0, len(found), BLOCK), dtype=np.int64))
        self.ends = np.cumsum(np.concatenate(counts) if counts else [])

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


class Marked:
    """The samples that are marked for a group."""

    def __init__(self, marks: Marks, group: int) -> None:
        self.marks, self.group, self.count = marks, group, marks.count(group)

    def find(self, numbers: np.ndarray) -> np.ndarray:
        """Returns the indices of the samples with some numbers."""
        return self.marks.find(self.group, numbers)


def find_labelled(labels: Labels, tasks: Sequence[int]) -> Members:
    """Returns the samples with a label for one of several tasks."""
    if len(tasks) == 1 and labels.samples.is_scattered:
        return Matching(labels.num_samples, partial(has_any_class, labels, tasks[0]))
    if len(tasks) == 1:
        return Labelled(labels, tasks[0])
    # a bit per sample: looking through the labels of a thousand tasks for each batch would take longer than training on it
    return Marked(mark_labelled(labels, [tasks]), 0)


def find_all(num_samples: int) -> Members:
    """Returns all samples."""
    return Matching(num_samples, partial(is_sample, num_samples))


def find_class(labels: Labels, task: int, value: int, fill: int = MISSING) -> Members:
    """Returns the samples of a class of a task, whose missing labels count as `fill`."""
    return Matching(labels.num_samples, partial(has_class, labels, task, value, fill == value))


def has_class(labels: Labels, task: int, value: int, or_missing: bool, block: slice) -> np.ndarray:
    classes = labels.column(task, block)
    return np.asarray((classes == value) | (classes == MISSING)) if or_missing else np.asarray(classes == value)


def has_any_class(labels: Labels, task: int, block: slice) -> np.ndarray:
    return np.asarray(labels.column(task, block) != MISSING)


def is_sample(num_samples: int, block: slice) -> np.ndarray:
    return np.ones(len(range(num_samples)[block]), dtype=bool)
