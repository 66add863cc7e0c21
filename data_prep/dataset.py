"""What every source provides for the planner: its tasks, its samples in order, and a way to read their images."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from data_prep.labels.array_labels import as_class_indices
from data_prep.labels.name_index import check_unique
from matl_scale.data.images.interface import CHUNK_SIZE, Images
from matl_scale.errors import InputError
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
    tasks: Sequence[Task], names: Sequence[str], labels: npt.ArrayLike, splits: Sequence[str], images: Images
) -> Dataset:
    """Makes a data set of what fits into memory; `names[i]`, `labels[i]` and `splits[i]` belong to image i of the source.

    Args:
        tasks: The tasks, one per column of `labels`.
        names: Unique names.
        labels: Class indices, shape `(num_images, num_tasks)`; −1, NaN, None or a masked cell is a missing label.
        splits: The split of each image.
        images: Reads images by index or name.

    Raises:
        InputError: Lengths do not agree, a name is no text or occurs twice, or a label is no class of its task.
    """
    names, splits = as_texts(names, "names"), as_texts(splits, "splits")
    if len(names) != len(splits):
        raise InputError(f"`splits` should have one split for each of the {len(names)} names. Got {len(splits)}.")
    check_unique(names, "image name")
    labels = as_class_indices(labels, tasks, names)

    def chunks() -> Iterator[Chunk]:
        for start in range(0, len(names), CHUNK_SIZE):
            part = slice(start, start + CHUNK_SIZE)
            indices = np.arange(start, min(start + CHUNK_SIZE, len(names)))
            yield Chunk(names=names[part], indices=indices, labels=labels[part], splits=splits[part])

    return Dataset(tasks=tasks, chunks=chunks, images=images)


def as_texts(values: Sequence[str], what: str) -> list[str]:
    """Returns texts as a list; raises `InputError` for one text instead of many, and for what is no text."""
    if isinstance(values, str):
        raise InputError(f"`{what}` should be a list with one text per image. Got the text {values!r}.")
    texts = [str(value) if isinstance(value, str) else value for value in values]  # numpy's texts too
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError(f"`{what}` should be texts. Got {text!r} in row {row}.")
    return texts


def binary_tasks(names: Iterable[str], source: str) -> list[Task]:
    """Declares tasks with the classes `no` and `yes`."""
    return [Task(name=name, classes=("no", "yes"), source=source) for name in names]


def one_vs_rest(classes: np.ndarray, num_classes: int) -> np.ndarray:
    """Turns class indices, shape `(num_images,)`, into binary labels, shape `(num_images, num_classes)`."""
    labels: np.ndarray = (classes[:, None] == np.arange(num_classes)).astype(np.int8)
    return labels
