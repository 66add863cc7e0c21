"""A label file as tasks and a label matrix on disk. An empty cell is a missing label, never a class."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_prep.labels.cells import stored_values
from data_prep.labels.classes import find_classes, find_known_classes
from data_prep.labels.header import is_unnamed
from data_prep.labels.image_column import check_image_column
from data_prep.labels.label_file import LabelFile
from data_prep.labels.missing_words import MissingWords, parse_missing
from data_prep.labels.name_index import NameIndex
from data_prep.labels.positive import (
    check_positive_kept,
    choose_positive,
    describe_guesses,
    order_classes,
    resolve_choice,
)
from data_prep.labels.rare_classes import RareRule
from data_prep.labels.split_column import read_splits
from data_prep.labels.unnamed import describe_unnamed
from data_prep.labels.white_space import trim
from matl_scale.data.shards.layout import MISSING, label_dtype
from matl_scale.errors import InputError
from matl_scale.tasks import Task, match_names

MAX_INT64 = 2**63 - 1


@dataclass(frozen=True, kw_only=True)
class ColumnRoles:
    """What the columns of a label file mean."""

    image: str = "image"  # the column with the image's name
    split: str | None = None  # the column with its split, if there is one
    tasks: Sequence[str] | None = None  # patterns for the columns that are tasks; None: all others
    text: Sequence[str] = ()  # columns whose cells are text even if all look like numbers
    positive: Sequence[str] = ()  # TASK=CLASS: which class of a binary task is the positive one
    rare: RareRule = field(default_factory=RareRule)  # what becomes of classes with few labels
    missing: Sequence[str] = ()  # WORD,WORD or COLUMN=WORD,WORD: cells without a label; pandas' words if empty


@dataclass(frozen=True, kw_only=True)
class Labels:
    """The content of a label file."""

    file: LabelFile
    image_column: str  # the column with the images' names
    tasks: Sequence[Task]  # the tasks, one per column of `matrix`
    index: NameIndex  # finds rows by image name
    matrix: np.ndarray  # shape `(num_rows, num_tasks)`, on disk
    # names of splits, and the number of each row's split; None if no column says it
    splits: tuple[list[str], np.ndarray] | None

    def names_of(self, rows: np.ndarray, limit: int = 11) -> list[str]:
        """Returns the image names of the first `limit` of some rows, ascending."""
        wanted = set(rows[:limit].tolist())
        names, row = [], 0
        for chunk in self.file.keys(self.image_column):
            names += [name for i, name in enumerate(chunk, start=row) if i in wanted]
            row += len(chunk)
            if len(names) == len(wanted):
                break
        return names


def read_labels(path: str, roles: ColumnRoles, work: Path, known_tasks: Sequence[Task] = ()) -> Labels:
    """Reads a label file. Every column except the image and split columns is a task, unless there are `known_tasks`: those of
    the shard set that the rows will join. They then decide which columns and classes count. The matrix lies in `work`.

    Raises:
        InputError: The file, a column or a value cannot be used; the message names it.
    """
    file = LabelFile(path, roles.image)
    check_image_column(file, roles.image)
    if roles.split is not None:
        file.check_column(roles.split)
    if file.text_format and file.text_format.encoding == "cp1252":
        print(
            f"{path}: read as Windows-1252, as it is not UTF-8. If words look wrong, save it as UTF-8", file=sys.stderr
        )
    candidates = label_columns(file, roles)
    for name in roles.text:
        file.check_column(name)
    index = NameIndex(lambda: file.keys(roles.image), f"value of column `{roles.image}` of {path}")
    if not len(index):
        raise InputError(f"{path} has no row beside its header.")
    if file.blank_rows is not None and len(file.blank_rows):
        print(f"{path}: left out {len(file.blank_rows)} rows without any cell", file=sys.stderr)
    missing = parse_missing(roles.missing, file.columns, path)
    if known_tasks:
        tasks, classes = read_known_tasks(file, candidates, roles, missing, known_tasks)
    else:
        tasks, classes = read_new_tasks(file, candidates, roles, missing)
    matrix = write_matrix(file, tasks, classes, len(index), work / "label_file.bin")
    splits = None if roles.split is None else read_splits(file, roles.split, missing.of(roles.split))
    return Labels(file=file, image_column=roles.image, tasks=tasks, index=index, matrix=matrix, splits=splits)


Classes: TypeAlias = Mapping[str, Mapping[object, str]]  # for each task the class name of each stored value


def read_new_tasks(
    file: LabelFile, candidates: Sequence[str], roles: ColumnRoles, missing: MissingWords
) -> tuple[list[Task], Classes]:
    """Returns the tasks that a label file declares, and prints what was decided without being asked."""
    notes = notes_on_unnamed(file, candidates, roles)
    names = chosen_columns(candidates, roles)
    found = find_classes(file, names, roles.text, missing, rare=roles.rare, leave_out=roles.tasks is None)
    if not found.names:
        reasons = "; ".join(found.describe_left_out())
        raise InputError(f"{file.path} has no column beside `{roles.image}` that can be a task by itself: {reasons}.")
    by_words = [
        Task(
            name=name,
            classes=order_classes(tuple(dict.fromkeys(found.names[name].values())))[0],
            source=Path(file.path).name,
        )
        for name in found.names
    ]
    tasks = choose_positive(by_words, roles.positive)
    chosen = {task_id for choice in roles.positive for task_id, _ in resolve_choice(by_words, choice)}
    notes += found.notes(file.path) + describe_guesses([task for i, task in enumerate(tasks) if i not in chosen])
    print_notes(notes)
    return tasks, found.names


def read_known_tasks(
    file: LabelFile, candidates: Sequence[str], roles: ColumnRoles, missing: MissingWords, tasks: Sequence[Task]
) -> tuple[Sequence[Task], Classes]:
    """Returns the tasks of the shard set that a file's rows will join, and what the file's values are for them."""
    check_positive_kept(tasks, roles.positive, file.path)
    if roles.rare.min_count > 1:
        raise InputError("`--min-class-count` is for new tasks. The rows will join a shard set, whose classes stay.")
    found = find_known_classes(file, candidates, tasks, roles.text, missing)
    print_notes(found.notes(file.path))
    return tasks, found.names


def notes_on_unnamed(file: LabelFile, candidates: Sequence[str], roles: ColumnRoles) -> list[str]:
    """Returns lines about columns without a name that are left out; raises `InputError` if one of them may be a task."""
    return describe_unnamed(file, {*candidates, *named_columns(roles)}, is_needed=roles.tasks is None)


def print_notes(notes: Sequence[str]) -> None:
    for note in notes:
        print(note, file=sys.stderr)


def named_columns(roles: ColumnRoles) -> set[str]:
    """Returns the names of columns that are not labels."""
    return {trim(name) for name in (roles.image, roles.split) if name is not None}


def label_columns(file: LabelFile, roles: ColumnRoles) -> list[str]:
    """Returns the columns that can be tasks; raises `InputError` if there is none. One without a name of its own, as
    `Unnamed: 0`, is one only if the user asked for it by that name.
    """
    asked = set(roles.tasks or ()) - {""}  # a task needs a name
    names = [
        name for name in file.columns if name not in named_columns(roles) and (name in asked or not is_unnamed(name))
    ]
    if not names:
        raise InputError(f"{file.path} has no label column beside `{roles.image}`.")
    return names


def chosen_columns(names: Sequence[str], roles: ColumnRoles) -> list[str]:
    """Returns the label columns that match `roles.tasks`; raises `InputError` for a pattern that matches none."""
    return [names[i] for i in match_names(names, roles.tasks, "--tasks")]


def write_matrix(
    file: LabelFile, tasks: Sequence[Task], classes: Mapping[str, Mapping[object, str]], num_rows: int, path: Path
) -> np.ndarray:
    """Writes the file's label matrix to `path` and returns it, shape `(num_rows, num_tasks)`, mapped into memory."""
    dtype = label_dtype(tasks)
    maps = []
    for task in tasks:
        index_of = {name: i for i, name in enumerate(task.classes)}
        values = list(classes[task.name])
        numbers = np.array([index_of[classes[task.name][value]] for value in values] + [MISSING], dtype=dtype)
        is_big = any(isinstance(value, int) and value > MAX_INT64 for value in values)
        maps.append((task.name, pa.array(values, pa.uint64() if is_big else None), numbers))
    with path.open("wb") as out:
        for batch in file.batches([task.name for task in tasks]):
            block = np.empty((batch.num_rows, len(tasks)), dtype=dtype)
            for column, (name, values, numbers) in enumerate(maps):
                cells = stored_values(batch.column(batch.schema.get_field_index(name)), f"{file.path}, column `{name}`")
                block[:, column] = numbers[find_indices(cells, values)]
            block.tofile(out)
    return map_matrix(path, dtype, num_rows, len(tasks))


def find_indices(cells: pa.Array, values: pa.Array) -> np.ndarray:
    """Returns the index of each cell in `values`, −1 for missing ones."""
    if not len(values):
        return np.full(len(cells), -1)
    found = pc.index_in(cells.cast(values.type), value_set=values)
    indices: np.ndarray = found.fill_null(-1).to_numpy(zero_copy_only=False)
    return indices


def map_matrix(path: Path, dtype: np.dtype, num_rows: int, num_columns: int) -> np.ndarray:
    """Maps a file of numbers into memory, shape `(num_rows, num_columns)`."""
    if not num_rows * num_columns:
        return np.empty((num_rows, num_columns), dtype=dtype)
    return np.memmap(path, dtype=dtype, mode="r", shape=(num_rows, num_columns))
