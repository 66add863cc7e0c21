"""The labels of a shard set as a run uses them: counted, found and read, without a matrix of all samples and tasks.

Each task is a column of a store, dense or sparse (`dense_labels.py`, `sparse_labels.py`). A `Labels` is a view of some samples
and tasks; views share the stores, and stores are mapped from the label cache (`label_cache.py`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from matl_scale.data.shards.dense_labels import CHUNK, DenseColumns
from matl_scale.data.shards.layout import MISSING
from matl_scale.data.shards.sample_runs import SampleRuns
from matl_scale.data.shards.sparse_labels import SparseColumns

NO_STORE = -1  # of a task without labels


@dataclass(frozen=True, kw_only=True)
class Labels:
    """The labels of some samples for some tasks, −1 = none. Samples are given by their index among them, tasks too.

    Attributes:
        stores: What holds the columns.
        store_of: The store of each task, or `NO_STORE`, shape `(num_tasks,)`.
        column_of: The column of each task in its store, shape `(num_tasks,)`.
        samples: The samples of the set that this is about.
        dtype: Of label arrays.
        origin: Hash of the files that `stores` were read from, in their order; empty for labels that are in memory alone.
    """

    stores: Sequence[DenseColumns | SparseColumns]
    store_of: np.ndarray
    column_of: np.ndarray
    samples: SampleRuns
    dtype: np.dtype
    origin: str = ""

    @classmethod
    def of_matrix(cls, matrix: np.ndarray) -> "Labels":
        """Returns the labels of a matrix of shape `(num_samples, num_tasks)`, which is not copied; quickest where the column of
        each task is contiguous."""
        num_samples, num_tasks = matrix.shape
        return cls(
            stores=(DenseColumns(matrix.T),),
            store_of=np.zeros(num_tasks, dtype=np.int64),
            column_of=np.arange(num_tasks),
            samples=SampleRuns.all_of(num_samples),
            dtype=matrix.dtype,
        )

    @property
    def num_samples(self) -> int:
        return len(self.samples)

    @property
    def num_tasks(self) -> int:
        return len(self.store_of)

    @property
    def nbytes(self) -> int:
        """Bytes of all columns of the stores, those of other samples and tasks too."""
        return sum(store.nbytes for store in self.stores)

    def of_samples(self, indices: np.ndarray) -> "Labels":
        """Returns the labels of some samples, whose indices have to ascend."""
        return replace(self, samples=SampleRuns.build(self.samples.ids_at(indices)))

    def of_tasks(self, tasks: Sequence[int]) -> "Labels":
        """Returns the labels for some tasks."""
        return replace(self, store_of=self.store_of[list(tasks)], column_of=self.column_of[list(tasks)])

    def without(self, tasks: Sequence[int]) -> "Labels":
        """Returns the labels as if some tasks had none."""
        store_of = self.store_of.copy()
        store_of[list(tasks)] = NO_STORE
        return replace(self, store_of=store_of)

    def at(self, indices: np.ndarray, tasks: Sequence[int] | np.ndarray | None = None) -> np.ndarray:
        """Returns the labels of some samples for some tasks, or for all, shape `(num_samples, num_tasks)`."""
        ids = np.arange(self.num_tasks) if tasks is None else np.asarray(tasks, dtype=np.int64)
        labels = np.full((len(indices), len(ids)), MISSING, dtype=self.dtype)
        sample_ids = self.samples.ids_at(indices)
        for number, store in enumerate(self.stores):
            chosen = np.flatnonzero(self.store_of[ids] == number)
            if len(chosen):
                labels[:, chosen] = store.at(sample_ids, self.column_of[ids[chosen]])
        return labels

    def column(self, task: int, samples: slice = slice(None)) -> np.ndarray:
        """Returns the labels of a task for neighbouring samples, shape `(num_samples,)`; not always a copy."""
        first, last, _ = samples.indices(self.num_samples)
        store = self._store(task)
        if store is None:
            return np.full(last - first, MISSING, dtype=self.dtype)
        column = int(self.column_of[task])
        if self.samples.is_scattered:
            sample_ids = self.samples.ids_at(np.arange(first, max(first, last)))
            return store.at(sample_ids, np.array([column]))[:, 0].astype(self.dtype, copy=False)
        parts = [store.read(column, start, stop) for start, stop in self.samples.between(first, last)]
        found = parts[0] if len(parts) == 1 else np.concatenate(parts) if parts else np.zeros(0)
        return found.astype(self.dtype, copy=False)

    def entries(self, task: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the samples that have a label for a task, ascending, and their classes."""
        parts = [
            (self.samples.indices_of(sample_ids), classes.astype(self.dtype, copy=False))
            for sample_ids, classes in self._parts_of(task)
        ]
        if not parts:
            return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=self.dtype)
        indices, classes = zip(*parts, strict=True)
        return np.concatenate(indices), np.concatenate(classes)

    def has_label(self, tasks: Sequence[int]) -> np.ndarray:
        """Returns which samples have a label for at least one of some tasks, bool, shape `(num_samples,)`."""
        if self.samples.is_scattered:
            found = np.zeros(len(self.samples.marks), dtype=bool)
            for task in tasks:
                if (store := self._store(task)) is not None:
                    store.mark(int(self.column_of[task]), int(self.samples.starts[0]), found)
            return np.asarray(found[self.samples.marks])
        marks = np.zeros(self.num_samples, dtype=bool)
        firsts = self.samples.firsts.tolist()
        for task in tasks:
            for run, (store, column, start, stop) in enumerate(self._runs_of(task)):
                store.mark(column, start, marks[firsts[run] : firsts[run] + stop - start])
        return marks

    def count(self) -> np.ndarray:
        """Returns the number of labels of each task, shape `(num_tasks,)`."""
        if self.samples.is_scattered:
            found = [sum(len(ids) for ids, _ in self._parts_of(task)) for task in range(self.num_tasks)]
            return np.array(found, dtype=np.int64)
        counts = np.zeros(self.num_tasks, dtype=np.int64)
        bounds = np.stack([self.samples.starts, self.samples.stops])
        for number, store in enumerate(self.stores):
            chosen = np.flatnonzero(self.store_of == number)
            if len(chosen):
                before = store.count_before(self.column_of[chosen], bounds.ravel()).reshape(len(chosen), *bounds.shape)
                counts[chosen] = (before[:, 1] - before[:, 0]).sum(axis=1)
        return counts

    def count_samples(self, tasks: Sequence[int] | None = None) -> int:
        """Returns how many samples have a label for at least one of some tasks, or of all."""
        tasks = range(self.num_tasks) if tasks is None else tasks
        if len(tasks) == 1:
            return int(self.of_tasks(tasks).count()[0])
        return int(np.count_nonzero(self.has_label(tasks)))

    def count_classes(self, task: int, num_classes: int) -> np.ndarray:
        """Returns the number of labels of each class of a task, shape `(num_classes,)`, longer if higher classes occur."""
        total = np.zeros(num_classes, dtype=np.int64)
        for found in self._class_counts_of(task, num_classes):
            size = max(len(found), len(total))
            total = np.pad(found, (0, size - len(found))) + np.pad(total, (0, size - len(total)))
        return total

    def _class_counts_of(self, task: int, num_classes: int) -> Iterator[np.ndarray]:
        if self.samples.is_scattered:
            for _, classes in self._parts_of(task):
                yield np.bincount(classes, minlength=num_classes)
        else:
            for store, column, start, stop in self._runs_of(task):
                yield store.count_classes(column, start, stop, num_classes)

    def mean_per_sample(self) -> float:
        """Returns the mean number of labels of the samples that have one; 0 if none has."""
        return float(self.count().sum()) / max(self.count_samples(), 1)

    def find(self, task: int, numbers: np.ndarray) -> np.ndarray:
        """Returns the samples that are the n-th with a label for a task, for several n from 0 on."""
        store, column = self._store(task), int(self.column_of[task])
        assert store is not None, "a task without labels has no n-th"
        bounds = np.stack([self.samples.starts, self.samples.stops])
        starts, stops = store.count_before(np.array([column]), bounds.ravel()).reshape(bounds.shape)
        ends = np.cumsum(stops - starts)
        run = np.searchsorted(ends, numbers, side="right")
        sample_ids = store.find(column, stops[run] - (ends[run] - numbers))
        return self.samples.indices_of(sample_ids)

    def _parts_of(self, task: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields the ids of the samples that have a label for a task, ascending, and their classes, part by part."""
        if not self.samples.is_scattered:
            for store, column, start, stop in self._runs_of(task):
                yield store.entries(column, start, stop)
        elif (found := self._store(task)) is not None:
            first, marks = int(self.samples.starts[0]), self.samples.marks
            for offset in range(0, len(marks), CHUNK):
                part = marks[offset : offset + CHUNK]
                start = first + offset
                sample_ids, classes = found.entries(int(self.column_of[task]), start, start + len(part))
                is_ours = part[sample_ids - start]
                yield sample_ids[is_ours], classes[is_ours]

    def _store(self, task: int) -> DenseColumns | SparseColumns | None:
        number = int(self.store_of[task])
        return None if number == NO_STORE else self.stores[number]

    def _runs_of(self, task: int) -> Iterator[tuple[DenseColumns | SparseColumns, int, int, int]]:
        """Yields the store and the column of a task with the ids at which each run of samples starts and stops."""
        store = self._store(task)
        if store is not None:
            for start, stop in zip(self.samples.starts.tolist(), self.samples.stops.tolist(), strict=True):
                yield store, int(self.column_of[task]), start, stop
