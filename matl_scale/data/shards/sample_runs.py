"""Samples of a set as runs of neighbouring ids: a split of ten million samples is a few of them."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

MANY_RUNS, SHORT_RUN = 16, 64  # samples in so many runs, of fewer samples on average, are scattered


@dataclass(frozen=True)
class SampleRuns:
    """Ascending samples: run i has the ids `starts[i]` to `stops[i]` − 1. The *index* of a sample is its place among them all."""

    starts: np.ndarray  # int64, shape `(num_runs,)`
    stops: np.ndarray  # int64, shape `(num_runs,)`

    @classmethod
    def build(cls, sample_ids: np.ndarray) -> "SampleRuns":
        """Returns the runs of some ids, which have to ascend."""
        ids = np.asarray(sample_ids, dtype=np.int64)
        breaks = np.flatnonzero(np.diff(ids) != 1) + 1
        assert (np.diff(ids)[breaks - 1] > 0).all(), "sample ids should ascend"
        edges = np.concatenate([[0], breaks, [len(ids)]]) if len(ids) else np.zeros(1, dtype=np.int64)
        return cls(ids[edges[:-1]], ids[edges[1:] - 1] + 1)

    @classmethod
    def all_of(cls, num_samples: int) -> "SampleRuns":
        """Returns all samples of a set."""
        return cls(np.zeros(1, dtype=np.int64), np.array([num_samples]))

    @cached_property
    def firsts(self) -> np.ndarray:
        """The index of the first sample of each run, and behind them the number of samples, shape `(num_runs + 1,)`."""
        return np.concatenate([[0], np.cumsum(self.stops - self.starts)])

    @cached_property
    def is_scattered(self) -> bool:
        """Whether there are so many runs that what is between them costs less than to visit each: the folds of `data.fold`."""
        return len(self.starts) > MANY_RUNS and len(self) < SHORT_RUN * len(self.starts)

    @cached_property
    def marks(self) -> np.ndarray:
        """Which of the ids from that of the first sample to that of the last one are among them, bool."""
        marks = np.zeros(int(self.stops[-1] - self.starts[0]), dtype=bool)
        marks[self.ids_at(np.arange(len(self))) - self.starts[0]] = True
        return marks

    def __len__(self) -> int:
        return int((self.stops - self.starts).sum())

    def ids_at(self, indices: np.ndarray) -> np.ndarray:
        """Returns the ids of the samples with some indices."""
        if len(self.starts) == 1:
            return np.asarray(indices + self.starts[0], dtype=np.int64)
        firsts = self.firsts
        run = np.searchsorted(firsts, indices, side="right") - 1
        return np.asarray(self.starts[run] + indices - firsts[run])

    def indices_of(self, sample_ids: np.ndarray) -> np.ndarray:
        """Returns the indices of samples that are among these, given by their ids."""
        run = np.searchsorted(self.stops, sample_ids, side="right")
        indices: np.ndarray = self.firsts[run] + sample_ids - self.starts[run]
        return indices

    def between(self, first: int, last: int) -> list[tuple[int, int]]:
        """Returns the ids, as pairs of start and stop, of the samples with the indices `first` to `last` − 1."""
        pairs = []
        for start, stop, index in zip(self.starts.tolist(), self.stops.tolist(), self.firsts.tolist(), strict=False):
            low, high = max(start, start + first - index), min(stop, start + last - index)
            if low < high:
                pairs.append((low, high))
        return pairs
