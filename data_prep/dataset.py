"""What every source hands to the writer: tasks, one row of labels per image, and the image bytes in row order."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from matl_scale.data.shards import InputError, Task, shortened


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A data set that is ready to be written.

    Attributes:
        tasks: One per column of `labels`.
        names: Where each image came from: a path or a name, unique.
        labels: Class indices, shape `(num_images, num_tasks)`, -1 = no label.
        splits: The split of each image.
        read_images: Yields the encoded images in row order.
        place: Where the names are to be looked for, for error messages.
    """

    tasks: Sequence[Task]
    names: Sequence[str]
    labels: np.ndarray
    splits: np.ndarray
    read_images: Callable[[], Iterator[bytes]]
    place: Path = Path()

    def __post_init__(self) -> None:
        assert len(self.names) == len(self.labels) == len(self.splits)
        if not len(self.names):
            raise InputError("There should be at least one image with a label row. Got none.")
        check_unique([task.name for task in self.tasks], "task name")
        check_unique(self.names, "image name")


def check_unique(names: Sequence[str], what: str) -> None:
    """Raises `InputError` with the first names that occur more than once."""
    unique, counts = np.unique(np.asarray(names, dtype=object), return_counts=True)
    repeated = unique[counts > 1]
    if len(repeated):
        raise InputError(
            f"Every {what} should be unique. {len(repeated)} occur more than once: {shortened(repeated)}. "
            "Rename or remove the copies."
        )
