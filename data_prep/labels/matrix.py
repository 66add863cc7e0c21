"""A label file as tasks and a label matrix on disk. An empty cell is a missing label, never a class."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_prep.labels.label_file import LabelFile, find_classes, known_classes, plain, task_of
from data_prep.labels.name_index import NameIndex
from matl_scale.data.shards.layout import MISSING, label_dtype
from matl_scale.errors import InputError, nearest
from matl_scale.tasks import Task, match_names

MAX_INT64 = 2**63 - 1


@dataclass(frozen=True, kw_only=True)
class ColumnRoles:
    """Which columns of a label file mean what.

    Attributes:
        image: The column with the image's name.
        split: The column with its split, if any.
        tasks: Patterns of the columns to take as tasks.
        text: Columns whose cells are words even if all look like numbers.
    """

    image: str = "image"
    split: str | None = None
    tasks: Sequence[str] = ("*",)
    text: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Labels:
    """The content of a label file.

    Attributes:
        file: It.
        image_column: The column of its names.
        tasks: One per column of `matrix`.
        index: Its rows by image name.
        matrix: Shape `(num_rows, num_tasks)`, kept on disk.
        splits: Names of splits, and per row the number of its split; None if no column says it.
    """

    file: LabelFile
    image_column: str
    tasks: Sequence[Task]
    index: NameIndex
    matrix: np.ndarray
    splits: tuple[list[str], np.ndarray] | None

    def names_of(self, rows: np.ndarray, limit: int = 11) -> list[str]:
        """Returns the image names of the first few of some rows, ascending."""
        wanted = set(rows[:limit].tolist())
        names, row = [], 0
        for chunk in self.file.keys(self.image_column):
            names += [name for i, name in enumerate(chunk, start=row) if i in wanted]
            row += len(chunk)
            if len(names) == len(wanted):
                break
        return names


def read_labels(place: str, columns: ColumnRoles, work: Path, known_tasks: Sequence[Task] = ()) -> Labels:
    """Reads a label file; every column except the image and split columns is a task.

    Args:
        place: A `.csv` or `.parquet` file with a header, or its URL.
        columns: What they mean.
        work: A folder for the matrix.
        known_tasks: The tasks of the shard set that the rows will join; they then say which columns and classes count.

    Raises:
        InputError: The file, a column or a value cannot be used; the message names it.
    """
    file = LabelFile(place)
    for column in (columns.image, columns.split):
        if column is not None:
            file.check_column(column)
    candidates = [name for name in file.columns if name not in (columns.image, columns.split)]
    if not candidates:
        raise InputError(f"{place} has no label column beside `{columns.image}`.")
    for name in columns.text:
        file.check_column(name)
    index = NameIndex(lambda: file.keys(columns.image), f"value of column `{columns.image}` of {place}")
    if not len(index):
        raise InputError(f"{place} has no row.")
    if known_tasks:
        tasks, classes = known_columns(file, candidates, known_tasks, columns)
    else:
        names = [candidates[i] for i in match_names(candidates, columns.tasks, "--tasks")]
        classes = find_classes(file, names, columns.text)
        tasks = [task_of(name, classes[name], Path(place).name) for name in names]
    matrix = encode(file, tasks, classes, len(index), work / "label_file.bin")
    splits = None if columns.split is None else read_splits(file, columns.split)
    return Labels(file=file, image_column=columns.image, tasks=tasks, index=index, matrix=matrix, splits=splits)


def known_columns(
    file: LabelFile, candidates: Sequence[str], tasks: Sequence[Task], columns: ColumnRoles
) -> tuple[Sequence[Task], dict[str, dict[object, str]]]:
    """Checks that the file has a column for each known task, with its classes."""
    for task in tasks:
        if task.name not in candidates:
            raise InputError(
                f"{file.place} has no column `{task.name}`, which the shard set has." + nearest(task.name, candidates)
            )
    names = [task.name for task in tasks]
    found = find_classes(file, names, columns.text, fewest=0)
    return tasks, {task.name: known_classes(file, task, found[task.name]) for task in tasks}


def encode(
    file: LabelFile, tasks: Sequence[Task], classes: Mapping[str, Mapping[object, str]], num_rows: int, path: Path
) -> np.ndarray:
    """Writes the file's label matrix to `path` and returns it, shape `(num_rows, num_tasks)`, mapped into memory."""
    dtype = label_dtype(tasks)
    maps = []
    for task in tasks:
        index_of = {name: i for i, name in enumerate(task.classes)}
        values = list(classes[task.name])
        numbers = np.array([index_of[classes[task.name][value]] for value in values] + [MISSING], dtype=dtype)
        maps.append((task.name, as_values(values), numbers))
    with path.open("wb") as out:
        for batch in file.batches([task.name for task in tasks]):
            block = np.empty((batch.num_rows, len(tasks)), dtype=dtype)
            for column, (name, values, numbers) in enumerate(maps):
                cells = plain(batch.column(batch.schema.get_field_index(name)), f"{file.place}, column `{name}`")
                block[:, column] = numbers[lookup(cells, values)]
            block.tofile(out)
    return map_matrix(path, dtype, num_rows, len(tasks))


def as_values(values: list[object]) -> pa.Array:
    """Returns distinct values of a column as Arrow's; integers beyond 63 bits are unsigned."""
    is_big = any(isinstance(value, int) and value > MAX_INT64 for value in values)
    return pa.array(values, pa.uint64() if is_big else None)


def lookup(cells: pa.Array, values: pa.Array) -> np.ndarray:
    """Returns the place of each cell in `values`, −1 where there is none."""
    if not len(values):
        return np.full(len(cells), -1)
    places = pc.index_in(cells.cast(values.type), value_set=values)
    return places.fill_null(-1).to_numpy(zero_copy_only=False)


def map_matrix(path: Path, dtype: np.dtype, num_rows: int, num_columns: int) -> np.ndarray:
    """Maps a file of numbers into memory, shape `(num_rows, num_columns)`."""
    if not num_rows * num_columns:
        return np.empty((num_rows, num_columns), dtype=dtype)
    return np.memmap(path, dtype=dtype, mode="r", shape=(num_rows, num_columns))


def read_splits(file: LabelFile, column: str) -> tuple[list[str], np.ndarray]:
    """Returns the names of the splits in a column, and the number of each row's split, shape `(num_rows,)`, uint8.

    Raises:
        InputError: There are more than 100: it is no column of splits.
    """
    number_of: dict[str, int] = {}
    parts = [np.zeros(0, dtype=np.uint8)]
    for names in file.keys(column):
        for name in names:
            number_of.setdefault(name, len(number_of))
        if len(number_of) > 100:
            raise InputError(f"{file.place}: column `{column}` should name splits. Got more than 100 names.")
        parts.append(np.fromiter((number_of[name] for name in names), dtype=np.uint8, count=len(names)))
    return list(number_of), np.concatenate(parts)
