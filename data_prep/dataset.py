"""What every source provides for the planner: its tasks, its samples in order, and a way to read their images."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from matl_scale.data.images.interface import CHUNK_SIZE, Images
from matl_scale.data.shards.layout import label_dtype
from matl_scale.tasks import Task, match_names


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Consecutive samples of a data set.

    Attributes:
        names: Where each image came from: a path or a name, unique in the data set.
        indices: Indices of the images in their source, ascending; images are read by them.
        labels: Class indices, shape `(num_samples, num_tasks)`, −1 = no label.
        splits: The split of each image.
    """

    names: Sequence[str]
    indices: np.ndarray
    labels: np.ndarray
    splits: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A data set that is ready to be planned.

    Attributes:
        tasks: The tasks, one per column of the labels.
        chunks: Yields all samples in chunks, the same ones at every call.
        images: Reads their images.
    """

    tasks: Sequence[Task]
    chunks: Callable[[], Iterator[Chunk]]
    images: Images

    def select(self, patterns: Sequence[str] | None) -> "Dataset":
        """Returns the data set with the tasks that match; all without a pattern."""
        ids = match_names([task.name for task in self.tasks], patterns, "--tasks")
        if len(ids) == len(self.tasks):
            return self
        return replace(
            self,
            tasks=[self.tasks[i] for i in ids],
            chunks=lambda: (replace(chunk, labels=chunk.labels[:, ids]) for chunk in self.chunks()),
        )


def from_arrays(
    tasks: Sequence[Task], names: Sequence[str], labels: np.ndarray, splits: Sequence[str], images: Images
) -> Dataset:
    """Makes a data set of what fits into memory; `names[i]`, `labels[i]` and `splits[i]` belong to image i of the source.

    Args:
        tasks: The tasks, one per column of `labels`.
        names: Unique names.
        labels: Shape `(num_images, num_tasks)`.
        splits: The split of each image.
        images: Reads images by index or name.
    """
    assert len(names) == len(labels) == len(splits)
    labels = labels.astype(label_dtype(tasks))

    def chunks() -> Iterator[Chunk]:
        for start in range(0, len(names), CHUNK_SIZE):
            part = slice(start, start + CHUNK_SIZE)
            indices = np.arange(start, min(start + CHUNK_SIZE, len(names)))
            yield Chunk(names=names[part], indices=indices, labels=labels[part], splits=splits[part])

    return Dataset(tasks=tasks, chunks=chunks, images=images)


def binary_tasks(names: Iterable[str], source: str) -> list[Task]:
    """Declares tasks with the classes `no` and `yes`."""
    return [Task(name=name, classes=("no", "yes"), source=source) for name in names]


def one_vs_rest(classes: np.ndarray, num_classes: int) -> np.ndarray:
    """Turns class indices, shape `(num_images,)`, into binary labels, shape `(num_images, num_classes)`."""
    labels: np.ndarray = (classes[:, None] == np.arange(num_classes)).astype(np.int8)
    return labels
