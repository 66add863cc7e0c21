"""The images of a study: drawn from the splits of a known data set, with labels that are thinned by rule."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from data_prep.dataset import Chunk, Dataset
from matl_scale.data.images.interface import CHUNK_SIZE
from matl_scale.data.shards.layout import MISSING
from matl_scale.tasks import Task


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Chosen samples of a data set that fits into memory."""

    dataset: Dataset
    names: np.ndarray  # shape `(num_samples,)`
    indices: np.ndarray  # of the images in their source, shape `(num_samples,)`
    labels: np.ndarray  # shape `(num_samples, num_tasks)`, −1 = no label
    splits: np.ndarray  # shape `(num_samples,)`

    def choose(self, rows: np.ndarray, split: str) -> "Samples":
        """Returns some of the samples, as a split of another name."""
        return Samples(
            dataset=self.dataset,
            names=self.names[rows],
            indices=self.indices[rows],
            labels=self.labels[rows],
            splits=np.full(len(rows), split, dtype=object),
        )

    def in_train(self, labels: np.ndarray) -> "Samples":
        """Returns the samples with other labels, which hold in the split train only."""
        return replace(self, labels=np.where((self.splits == "train")[:, None], labels, self.labels).astype(np.int8))

    def with_tasks(self, tasks: Sequence[Task], labels: np.ndarray) -> "Samples":
        """Returns the samples with other tasks, whose labels have the shape `(num_samples, num_tasks)`."""
        return replace(self, dataset=replace(self.dataset, tasks=tasks), labels=labels)

    def as_dataset(self) -> Dataset:
        """Returns the samples as what data preparation writes."""
        order = np.argsort(self.indices)  # images are read in their order

        def chunks() -> Iterator[Chunk]:
            for start in range(0, len(order), CHUNK_SIZE):
                rows = order[start : start + CHUNK_SIZE]
                yield Chunk(
                    names=self.names[rows].tolist(),
                    indices=self.indices[rows],
                    labels=self.labels[rows],
                    splits=self.splits[rows].tolist(),
                )

        return replace(self.dataset, chunks=chunks)


def read_samples(dataset: Dataset) -> Samples:
    """Returns all samples of a data set."""
    chunks = list(dataset.chunks())
    return Samples(
        dataset=dataset,
        names=np.array([name for chunk in chunks for name in chunk.names], dtype=object),
        indices=np.concatenate([chunk.indices for chunk in chunks]),
        labels=np.concatenate([chunk.labels for chunk in chunks]),
        splits=np.array([split for chunk in chunks for split in chunk.splits], dtype=object),
    )


def draw_samples(dataset: Dataset, num_train: int, num_val: int, num_test: int, seed: int) -> Samples:
    """Returns samples for the splits train and val, drawn from the data set's train without overlap, and for test from its test.

    Each number is a limit: smaller data sets give what they have, and at most a fifth of their train becomes val.
    """
    samples = read_samples(dataset)
    generator = np.random.default_rng(seed)
    pool = generator.permutation(np.flatnonzero(samples.splits == "train"))
    num_val = min(num_val, len(pool) // 5)
    test = generator.permutation(np.flatnonzero(samples.splits == "test"))[:num_test]
    parts = [
        samples.choose(pool[num_val : num_val + num_train], "train"),
        samples.choose(pool[:num_val], "val"),
        samples.choose(test, "test"),
    ]
    joined = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in ("names", "indices", "labels", "splits")
    }
    return Samples(dataset=dataset, **joined)


def keep_labels(samples: Samples, share: float, seed: int) -> Samples:
    """Returns the samples with so much of the labels of train, each kept at random; the others are missing."""
    generator = np.random.default_rng(seed)
    kept = generator.random(samples.labels.shape) < share
    return samples.in_train(np.where(kept, samples.labels, MISSING))


def thin_positives(samples: Samples, negatives_per_positive: float, seed: int) -> Samples:
    """Returns the samples with so few positive labels of each task in train that this many negatives come on each, at least two
    positives; the labels of the others are missing."""
    generator = np.random.default_rng(seed)
    labels, is_train = samples.labels.copy(), samples.splits == "train"
    for task_id in range(labels.shape[1]):
        positives = generator.permutation(np.flatnonzero(is_train & (labels[:, task_id] == 1)))
        num_negatives = int((is_train & (labels[:, task_id] == 0)).sum())
        labels[positives[max(2, round(num_negatives / negatives_per_positive)) :], task_id] = MISSING
    return samples.in_train(labels)
