"""What every source hands to the planner: its tasks, its rows in order, and a way to read the images of some rows."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from matl_scale.data.images.interface import CHUNK_ROWS, Images
from matl_scale.data.shards.layout import label_dtype
from matl_scale.errors import InputError, shortened
from matl_scale.tasks import Task, match_names


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Some rows of a data set.

    Attributes:
        names: Where each image came from: a path or a name, unique in the data set.
        sources: What the images are to be read by: row numbers of the source, ascending.
        labels: Class indices, shape `(num_rows, num_tasks)`, −1 = no label.
        splits: The split of each image.
    """

    names: Sequence[str]
    sources: np.ndarray
    labels: np.ndarray
    splits: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A data set that is ready to be planned.

    Attributes:
        tasks: One per column of the labels.
        rows: Yields all rows in chunks, the same ones at every call.
        images: Reads their images.
    """

    tasks: Sequence[Task]
    rows: Callable[[], Iterator[Rows]]
    images: Images

    def select(self, patterns: Sequence[str]) -> "Dataset":
        """Returns the data set with the tasks that match."""
        ids = match_names([task.name for task in self.tasks], patterns, "--tasks")
        if len(ids) == len(self.tasks):
            return self
        return replace(
            self,
            tasks=[self.tasks[i] for i in ids],
            rows=lambda: (replace(rows, labels=rows.labels[:, ids]) for rows in self.rows()),
        )


def from_arrays(
    tasks: Sequence[Task], names: Sequence[str], labels: np.ndarray, splits: Sequence[str], images: Images
) -> Dataset:
    """Makes a data set of what fits into memory; row i of `names`, `labels` and `splits` is row i of the source.

    Args:
        tasks: One per column of `labels`.
        names: Unique.
        labels: Shape `(num_images, num_tasks)`.
        splits: The split of each image.
        images: Read by row number or name.
    """
    assert len(names) == len(labels) == len(splits)
    labels = labels.astype(label_dtype(tasks))

    def rows() -> Iterator[Rows]:
        for start in range(0, len(names), CHUNK_ROWS):
            part = slice(start, start + CHUNK_ROWS)
            sources = np.arange(start, min(start + CHUNK_ROWS, len(names)))
            yield Rows(names=names[part], sources=sources, labels=labels[part], splits=splits[part])

    return Dataset(tasks=tasks, rows=rows, images=images)


def one_vs_rest(classes: np.ndarray, num_classes: int) -> np.ndarray:
    """Turns class indices, shape `(num_images,)`, into binary labels, shape `(num_images, num_classes)`."""
    return (classes[:, None] == np.arange(num_classes)).astype(np.int8)


def check_unique(names: Iterable[str], what: str) -> None:
    """Raises `InputError` with the first names that occur more than once."""
    unique, counts = np.unique(np.asarray(list(names), dtype=object), return_counts=True)
    repeated = unique[counts > 1]
    if len(repeated):
        raise InputError(
            f"Every {what} should be unique. {len(repeated)} occur more than once: {shortened(repeated)}. "
            "Rename or remove the copies."
        )
