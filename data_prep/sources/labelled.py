"""Images in a folder or in Parquet, and a label file: matched by name, in the order of the images."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from data_prep.dataset import Dataset, Rows
from data_prep.labels.matrix import ColumnRoles, Labels, read_labels
from matl_scale.data.images.interface import ListedImages
from matl_scale.data.images.sources import open_images
from matl_scale.errors import InputError, shortened
from matl_scale.tasks import Task


def build(
    images: str,
    labels: str,
    columns: ColumnRoles,
    scratch: Path,
    *,
    split: str = "train",
    allow_unmatched: bool = False,
    known_tasks: Sequence[Task] = (),
) -> Dataset:
    """Builds a data set of labelled images. A label row may leave out the extension, as many published label files do.

    Args:
        images: A folder or its URL, a Parquet file, or a folder of Parquet files.
        labels: A `.csv` or `.parquet` file, or its URL.
        columns: What its columns mean.
        scratch: A folder for the encoded label matrix.
        split: Of all images, if no column says it.
        allow_unmatched: Whether images without a row are left out, and the reverse; else they are an error.
        known_tasks: Of the set that the rows will join.
    """
    listed = open_images(images)
    encoded = read_labels(labels, columns, scratch, known_tasks)
    return Dataset(tasks=encoded.tasks, rows=lambda: match(listed, encoded, split, allow_unmatched), images=listed)


def match(images: ListedImages, labels: Labels, split: str, allow_unmatched: bool) -> Iterator[Rows]:
    """Yields the images that have a label row, and in the end complains about the others.

    Raises:
        InputError: Some have no partner (counted and listed), unless `allow_unmatched`; or two images claim one row.
    """
    used = np.zeros(len(labels.index), dtype=np.uint8)
    without_row: list[str] = []
    for names, sources in images.names():
        rows = labels.index.find(names)
        found = np.flatnonzero(rows >= 0)
        without_row += [names[i] for i in np.flatnonzero(rows < 0).tolist()]
        np.add.at(used, rows[found], 1)
        check_claims(names, rows, used, labels)
        yield Rows(
            names=[names[i] for i in found.tolist()],
            sources=sources[found],
            labels=labels.matrix[rows[found]],
            splits=[split] * len(found) if labels.splits is None else splits_of(labels.splits, rows[found]),
        )
    complaints = []
    if without_row:
        complaints.append(f"{len(without_row)} images have no label row ({shortened(without_row)})")
    if len(without_image := np.flatnonzero(used == 0)):
        listed = shortened(sorted(labels.names_of(without_image)))
        complaints.append(f"{len(without_image)} label rows have no image ({listed})")
    if complaints and not allow_unmatched:
        raise InputError(
            f"{images.place} and {labels.file.place} should match: {'; '.join(complaints)}. "
            "Correct them, or leave these out with --allow-unmatched."
        )
    if complaints:
        print(f"left out: {'; '.join(complaints)}", file=sys.stderr)


def splits_of(splits: tuple[list[str], np.ndarray], rows: np.ndarray) -> list[str]:
    names, numbers = splits
    return [names[number] for number in numbers[rows].tolist()]


def check_claims(names: Sequence[str], rows: np.ndarray, used: np.ndarray, labels: Labels) -> None:
    claimed = [names[i] for i in np.flatnonzero(rows >= 0).tolist() if used[rows[i]] > 1]
    if claimed:
        raise InputError(
            f"Every row of {labels.file.place} should belong to one image. These share theirs with another: "
            f"{shortened(claimed)}. Give names with extensions there, or rename the images."
        )
