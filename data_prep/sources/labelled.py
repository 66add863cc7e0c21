"""Images and a label file, matched by name, in the order of the images."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from data_prep.dataset import Chunk, Dataset
from data_prep.labels.matrix import ColumnRoles, Labels, read_labels
from data_prep.labels.mismatches import MOST_NAMES, explain_mismatches
from matl_scale.data.images.file_kinds import PassedOver
from matl_scale.data.images.interface import ListedImages
from matl_scale.data.images.sources import open_images
from matl_scale.errors import InputError, shortened
from matl_scale.tasks import Task
from matl_scale.text import count_of


def build(
    images: str,
    labels: str,
    roles: ColumnRoles,
    scratch: Path,
    *,
    split: str = "train",
    allow_unmatched: bool = False,
    known_tasks: Sequence[Task] = (),
) -> Dataset:
    """Builds a data set of labelled images. A label row may omit the extension of its image, as in many published files.

    Args:
        images: A folder or its URL, a tar or Parquet file, or a folder of such files.
        labels: A `.csv` or `.parquet` file, or its URL; `roles` says what its columns mean.
        scratch: A folder for the label matrix.
        split: The split of all images, if no column says it.
        allow_unmatched: Whether images without a row, and rows without an image, are left out; otherwise they are an error.
        known_tasks: The tasks of the set that the images will join.
    """
    listed = open_images(images)
    read = read_labels(labels, roles, scratch, known_tasks)
    return Dataset(tasks=read.tasks, chunks=lambda: match(listed, read, split, allow_unmatched), images=listed)


def match(images: ListedImages, labels: Labels, split: str, allow_unmatched: bool) -> Iterator[Chunk]:
    """Yields the images that have a label row, and in the end reports the others.

    Raises:
        InputError: Images or rows have no partner and `allow_unmatched` is false, or two images share a row.
    """
    used = np.zeros(len(labels.index), dtype=np.uint8)
    without_row: list[str] = []
    passed_over = PassedOver()
    for names, indices in images.names(passed_over):
        rows = labels.index.find(names)
        found = np.flatnonzero(rows >= 0)
        without_row += [names[i] for i in np.flatnonzero(rows < 0).tolist()]
        np.add.at(used, rows[found], 1)
        check_shared(names, rows, used, labels)
        yield Chunk(
            names=[names[i] for i in found.tolist()],
            indices=indices[found],
            labels=labels.matrix[rows[found]],
            splits=[split] * len(found) if labels.splits is None else splits_of(labels.splits, rows[found]),
        )
    report_unmatched(images.root, labels, without_row, np.flatnonzero(used == 0), passed_over, allow_unmatched)


def report_unmatched(
    root: str,
    labels: Labels,
    without_row: Sequence[str],
    without_image: np.ndarray,
    passed_over: PassedOver,
    allow_unmatched: bool,
) -> None:
    """Prints which images and rows are left out, and which files are no images.

    Raises:
        InputError: Images or rows have no partner and `allow_unmatched` is false; the message says why where it can be seen.
    """
    complaints = []
    if without_row:
        complaints.append(
            f"{count_of(len(without_row), 'image has', plural='images have')} no label row ({shortened(without_row)})"
        )
    if len(without_image):
        listed = shortened(sorted(labels.names_of(without_image)), total=len(without_image))
        complaints.append(f"{len(without_image):,} label rows have no image ({listed})")
    if complaints and not allow_unmatched:
        why = ""
        if without_row and len(without_image):
            why = explain_mismatches(without_row, labels.names_of(without_image, MOST_NAMES), root)
        seen = passed_over.describe()
        sentences = [
            f"{root} and {labels.file.path} should match: {'; '.join(complaints)}.",
            why,
            f"Also {seen}" if seen else "",
            "Correct them, or leave these out with --allow-unmatched.",
        ]
        raise InputError(" ".join(filter(None, sentences)))
    if text := passed_over.describe():
        print(f"{root}: {text}", file=sys.stderr)
    if complaints:
        print(f"left out: {'; '.join(complaints)}", file=sys.stderr)


def splits_of(splits: tuple[list[str], np.ndarray], rows: np.ndarray) -> list[str]:
    names, numbers = splits
    return [names[number] for number in numbers[rows].tolist()]


def check_shared(names: Sequence[str], rows: np.ndarray, used: np.ndarray, labels: Labels) -> None:
    """Raises `InputError` if two images have the same label row."""
    if shared := [names[i] for i in np.flatnonzero(rows >= 0).tolist() if used[rows[i]] > 1]:
        raise InputError(
            f"Every row of {labels.file.path} should belong to one image. These images share theirs with another one: "
            f"{shortened(shared)}. Give names with extensions there, or rename the images."
        )
