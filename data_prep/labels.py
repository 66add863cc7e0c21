"""A label file (CSV or Parquet) as tasks and a label matrix. An empty cell is a missing label, never a class."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from data_prep.dataset import check_unique
from matl_scale.data.shards import (
    MAX_CLASSES,
    MISSING,
    InputError,
    Task,
    label_dtype,
    match_names,
    nearest,
    shortened,
)


@dataclass(frozen=True, kw_only=True)
class LabelFile:
    """The content of a label file: `images` and, if asked for, `splits` have one entry per row of `labels`."""

    path: Path
    tasks: list[Task]
    images: list[str]
    labels: np.ndarray
    splits: np.ndarray | None


def read_label_file(
    path: Path,
    image_column: str,
    split_column: str | None = None,
    task_patterns: Sequence[str] = ("*",),
    known_tasks: Sequence[Task] = (),
) -> LabelFile:
    """Reads a label file; every column except the image and split columns is a task.

    Args:
        path: A `.csv` or `.parquet` file with a header.
        image_column: The column with the image's name.
        split_column: The column with its split, if any.
        task_patterns: Which of the other columns to take.
        known_tasks: The tasks of the shard set that the rows will join; they then say which columns and classes count.

    Raises:
        InputError: The file, a column or a value cannot be used; the message names it.
    """
    table = read_table(path, [name for name in (image_column, split_column) if name])
    for column in (image_column, split_column):
        if column is not None and column not in table.column_names:
            raise InputError(
                f"{path} has no column `{column}`. It has: {', '.join(table.column_names[:20])}."
                + nearest(column, table.column_names)
            )
    images = key_column(table, image_column, path)
    check_unique(images, f"value of column `{image_column}` of {path}")
    candidates = [name for name in table.column_names if name not in (image_column, split_column)]
    if not candidates:
        raise InputError(f"{path} has no label column beside `{image_column}`.")
    if known_tasks:
        tasks = list(known_tasks)
        columns = [encode_known(task, table, path) for task in tasks]
    else:
        names = [candidates[i] for i in match_names(candidates, task_patterns, "--tasks")]
        tasks, columns = map(list, zip(*(encode_column(name, table[name], path) for name in names), strict=True))
    dtype = label_dtype(tasks)
    labels = np.stack([column.astype(dtype) for column in columns], axis=1)
    splits = None if split_column is None else np.asarray(key_column(table, split_column, path), dtype=object)
    return LabelFile(path=path, tasks=tasks, images=images, labels=labels, splits=splits)


def read_table(path: Path, text_columns: Sequence[str]) -> pa.Table:
    if not path.is_file():
        raise InputError(f"The label file {path} does not exist.")
    try:
        if path.suffix.lower() == ".parquet":
            return pq.read_table(path)
        options = pyarrow.csv.ConvertOptions(
            column_types={name: pa.string() for name in text_columns}, null_values=[""], strings_can_be_null=True
        )
        table = pyarrow.csv.read_csv(path, convert_options=options)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OSError) as error:
        raise InputError(f"{path} cannot be read: {error}. It should be CSV with a header, or Parquet.") from error
    check_unique(table.column_names, f"column of {path}")
    return table


def key_column(table: pa.Table, name: str, path: Path) -> list[str]:
    column = table[name]
    if column.null_count:
        row = pc.index(pc.is_null(column), True).as_py()
        raise InputError(f"{path}, column `{name}`: every row should have a value. Row {row + 1} is empty.")
    return [str(value) for value in column.to_pylist()]


def encode_column(name: str, column: pa.ChunkedArray, path: Path) -> tuple[Task, np.ndarray]:
    """Turns one label column into a task and its class indices, shape `(num_rows,)`, -1 where it is empty.

    Integer classes are ordered by value, strings alphabetically, and false comes before true.
    """
    place = f"{path}, column `{name}`"
    column = label_values(column, place)
    values = sorted(pc.unique(column.drop_null()).to_pylist())
    if len(values) < 2:
        found = f"only {values[0]!r}" if values else "no value at all"
        raise InputError(
            f"{place}: a task should have at least two classes. Got {found}: leave the column out with --tasks."
        )
    if len(values) > MAX_CLASSES:
        raise InputError(
            f"{place}: a task should have at most {MAX_CLASSES} classes. Got {len(values)}: "
            "is this a name or an id rather than a label?"
        )
    indices = pc.index_in(column, pa.array(values, type=column.type))
    task = Task(name=name, classes=tuple(class_name(value) for value in values), source=path.name)
    return task, indices.fill_null(MISSING).to_numpy()


def encode_known(task: Task, table: pa.Table, path: Path) -> np.ndarray:
    """Turns the column of a known task into its class indices, shape `(num_rows,)`, -1 where it is empty."""
    if task.name not in table.column_names:
        raise InputError(
            f"{path} has no column `{task.name}`, which the shard set has." + nearest(task.name, table.column_names)
        )
    place = f"{path}, column `{task.name}`"
    values = label_values(table[task.name], place).to_pylist()
    index_of = {name: index for index, name in enumerate(task.classes)}
    names = [None if value is None else class_name(value) for value in values]
    if unknown := sorted({name for name in names if name is not None and name not in index_of}):
        raise InputError(f"{place}: the shard set has no class {shortened(unknown)}. Prepare all splits in one call.")
    return np.array([MISSING if name is None else index_of[name] for name in names])


def class_name(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def label_values(column: pa.ChunkedArray, place: str) -> pa.ChunkedArray:
    """Returns a column as integers, booleans or strings, with nulls for missing labels."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    if pa.types.is_null(kind):
        return column.cast(pa.string())
    if pa.types.is_floating(kind):
        # integers with gaps are often stored as floats, with NaN for a gap
        column = pc.if_else(pc.is_nan(column), None, column)
        try:
            return column.cast(pa.int64())
        except pa.ArrowInvalid as error:
            raise InputError(f"{place}: labels should be integers, booleans or strings. Got fractions.") from error
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return pc.if_else(pc.equal(column, ""), None, column)
    checks = (pa.types.is_integer, pa.types.is_boolean)
    if not any(check(kind) for check in checks):
        raise InputError(f"{place}: labels should be integers, booleans or strings. Got {kind}.")
    return column
