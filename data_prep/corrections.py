"""Corrects single labels of a shard set, as a list says that names an image, a task and a class in each row: the one that
`matl-report --suspects` writes, once people have filled its column `correct`. Adds a version, as `task_changes.py` does.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from data_prep.labels.cells import read_cells
from data_prep.labels.class_names import as_number, is_number
from data_prep.labels.label_file import LabelFile
from data_prep.labels.name_index import NameIndex
from data_prep.labels.white_space import trim
from data_prep.task_changes import columns_of, opened_for_change, write_columns, write_version
from data_prep.writing.finalise import GROUP_ROWS
from matl_scale.data.shards.layout import MISSING
from matl_scale.data.shards.manifest import Manifest
from matl_scale.errors import InputError, nearest, shortened
from matl_scale.tasks import Task
from matl_scale.text import count_of

IMAGE, TASK, CORRECT = COLUMNS = ("image", "task", "correct")
KEEP = -2  # in the matrix of corrections: the label stays as it is


class Correction(NamedTuple):
    """One row of the list whose column `correct` is filled."""

    image: str
    task: str
    correct: str
    row: int  # its number in the file, from 1


def correct_labels(folder: str, path: str) -> Manifest:
    """Replaces the labels that a list corrects. An empty cell of `correct` leaves a label as it is; a word that means missing, as
    NA, removes it.

    Raises:
        InputError: The list names no correction, an unknown image, task or class, or two classes for one label.
    """
    with opened_for_change(folder) as (manifest, scratch):
        corrections = read_corrections(path)
        ids = find_tasks(manifest, corrections, path)
        chosen = [manifest.tasks[i] for i in ids]
        images = list(dict.fromkeys(each.image for each in corrections))
        index = NameIndex(lambda: iter([images]), f"image of {path}")
        wanted = build_matrix(corrections, images, chosen, path)
        rows = find_samples(manifest, index, images, path)
        new = corrected(manifest.label_groups(ids, GROUP_ROWS), rows, wanted)
        columns = columns_of(manifest)
        for task_id, column in zip(ids, write_columns(manifest, chosen, new, scratch), strict=True):
            columns[task_id] = column
        names = shortened((task.name for task in chosen), 5)
        amount = f"{count_of(int((wanted != KEEP).sum()), 'label')} of {count_of(len(chosen), 'task')}"
        return write_version(manifest, columns, f"corrected {amount}: {names}")


def read_corrections(path: str) -> list[Correction]:
    """Reads the rows that correct a label; raises `InputError` if there is none."""
    file = LabelFile(path, IMAGE)
    for column in COLUMNS:
        file.check_column(column)
    found, start = [], 0
    for batch in file.batches(COLUMNS):
        cells = zip(*(column.cast(pa.string()).to_pylist() for column in batch.columns), strict=True)
        for i, (image, task, correct) in enumerate(cells):
            if trim(correct or ""):
                found.append(Correction(image or "", trim(task or ""), trim(correct), file.data_row(start + i)))
        start += batch.num_rows
    if not found:
        raise InputError(
            f"{path} corrects no label: column `{CORRECT}` is empty. Write the correct class into the rows whose label is wrong."
        )
    return found


def find_tasks(manifest: Manifest, corrections: list[Correction], path: str) -> list[int]:
    """Returns the indices of the tasks with corrections, ascending; raises `InputError` for one that the set does not have."""
    index_of = {
        trim(name): i for i, name in enumerate(manifest.task_names)
    }  # an older version kept blanks around names
    for each in corrections:
        if each.task not in index_of:
            raise InputError(
                f"{path}, data row {each.row}: {manifest.root} has no task `{each.task}`.{nearest(each.task, index_of)}"
            )
    return sorted({index_of[each.task] for each in corrections})


def build_matrix(corrections: list[Correction], images: list[str], tasks: list[Task], path: str) -> np.ndarray:
    """Returns the class indices that the list asks for, −1 for no label and `KEEP` elsewhere, shape `(num_images, num_tasks)`.

    Raises:
        InputError: A class is none of its task, or a label is to be two things.
    """
    row_of = {image: i for i, image in enumerate(images)}
    column_of = {trim(task.name): i for i, task in enumerate(tasks)}
    wanted = np.full((len(images), len(tasks)), KEEP, dtype=np.int32)
    for each in corrections:
        row, column = row_of[each.image], column_of[each.task]
        found = find_class(each, tasks[column], path)
        if wanted[row, column] not in (KEEP, found):
            raise InputError(
                f"{path}: a label should be corrected once. Data row {each.row} has another class for task `{each.task}` of "
                f"{each.image} than a row before."
            )
        wanted[row, column] = found
    return wanted


def find_class(correction: Correction, task: Task, path: str) -> int:
    """Returns the index of the correct class, −1 if there is to be no label; raises `InputError` for what is no class."""
    context = f"{path}, data row {correction.row}"
    text = correction.correct
    if text not in task.classes and is_number(text):
        text = str(as_number(text, False, context))  # a spreadsheet may have made 1.0 of 1
    if text in task.classes:
        return task.classes.index(text)
    if read_cells([text], known=task.classes)[text] is None:
        return MISSING
    raise InputError(
        f"{context}: `{correction.correct}` is no class of task `{task.name}`. It has: {shortened(task.classes, 20)}."
        + nearest(correction.correct, task.classes)
    )


def find_samples(manifest: Manifest, index: NameIndex, images: list[str], path: str) -> list[np.ndarray]:
    """Returns the row in `images` of every sample, −1 if it is not named, in groups of `GROUP_ROWS`.

    Raises:
        InputError: An image is not in the set, or two images of the set share a row.
    """
    paths = manifest.sample_columns("path").column(0)
    starts = range(0, manifest.num_samples, GROUP_ROWS)
    groups = [index.find(paths.slice(start, GROUP_ROWS).to_pylist()) for start in starts]
    rows = np.concatenate(groups)
    used = np.bincount(rows[rows >= 0], minlength=len(images))
    if unknown := [images[i] for i in np.flatnonzero(used == 0).tolist()]:
        raise InputError(
            f"{path} corrects labels of {count_of(len(unknown), 'image')} missing in {manifest.root}: {shortened(unknown)}."
        )
    if shared := [images[i] for i in np.flatnonzero(used > 1).tolist()]:
        raise InputError(
            f"{path}: each row should belong to one image. {shortened(shared)} belong to several: give names with extensions."
        )
    return groups


def corrected(before: Iterable[np.ndarray], rows: list[np.ndarray], wanted: np.ndarray) -> Iterator[np.ndarray]:
    """Yields the new labels in the groups of the old ones. `rows` says which row of `wanted` each sample has."""
    for labels, group in zip(before, rows, strict=True):
        named = np.flatnonzero(group >= 0)
        asked = wanted[group[named]]
        labels[named] = np.where(asked == KEEP, labels[named], asked)
        yield labels
