"""The Parquet tables of a shard set: reading, with all checks that need no other table, and writing."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from matl_scale.data.shards.layout import TASKS_SCHEMA, count_labels, label_dtype
from matl_scale.errors import InputError, one_line
from matl_scale.storage.store import Store
from matl_scale.tasks import Task


class LabelReference(NamedTuple):
    """Where the labels of a task are: a file of the set, and a column of it."""

    file: str
    column: str


@contextmanager
def parquet_errors(context: str) -> Iterator[None]:
    """Turns the errors that pyarrow raises for a damaged file into an `InputError` that begins with `context`."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{context} cannot be read as Parquet: {one_line(error)}.") from error


def read_table(root: Store, name: str, schema: pa.Schema, columns: list[str] | None = None) -> pa.Table:
    """Reads a table of a shard set; raises `InputError` if it cannot be read, has other columns, or has an empty cell."""
    with root.fetched(name) as path, parquet_errors(f"{root}/{name}"):
        file = pq.ParquetFile(path)
        if not file.schema_arrow.equals(schema):
            raise InputError(f"{root}/{name} should have the columns {', '.join(schema.names)}. Prepare the set again.")
        table = file.read(columns=columns)
        table.validate(full=True)
        if any(column.null_count or has_null_items(column) for column in table.columns):
            raise InputError(f"{root}/{name} should have no empty cell. Prepare the set again.")
        return table


def has_null_items(column: pa.ChunkedArray) -> bool:
    return pa.types.is_list(column.type) and any(chunk.flatten().null_count for chunk in column.chunks)


def as_numbers(column: pa.ChunkedArray) -> np.ndarray:
    """Returns a column of numbers without gaps, shape `(num_rows,)`; without pandas, whose import `to_numpy` would wait for."""
    chunks = [np.from_dlpack(chunk) for chunk in column.chunks]
    if len(chunks) == 1:
        return chunks[0]
    return np.concatenate([np.empty(0, dtype=column.type.to_pandas_dtype()), *chunks])


def column_name(task_name: str) -> str:
    """Returns the name of a task's Parquet column. Dots are escaped: Parquet readers treat them as paths into structs."""
    return task_name.replace("%", "%25").replace(".", "%2E")


def tasks_table(
    tasks: Sequence[Task], references: Sequence[LabelReference], counts: Sequence[np.ndarray], num_samples: int
) -> pa.Table:
    """Builds the table of a version's tasks; `counts` has the number of samples of each class, for each task."""
    return pa.table(
        {
            "name": [task.name for task in tasks],
            "classes": [list(task.classes) for task in tasks],
            "source": [task.source for task in tasks],
            "counts": [count.tolist() for count in counts],
            "missing": [int(num_samples - count.sum()) for count in counts],
            "file": [reference.file for reference in references],
            "column": [reference.column for reference in references],
        },
        schema=TASKS_SCHEMA,
    )


def label_table(tasks: Sequence[Task], labels: np.ndarray) -> pa.Table:
    """Builds a table with a column per task from a label matrix, shape `(num_samples, num_tasks)`."""
    dtype = label_dtype(tasks)
    return pa.table({column_name(task.name): labels[:, i].astype(dtype) for i, task in enumerate(tasks)})


def label_schema(tasks: Sequence[Task]) -> pa.Schema:
    """Returns the schema of `label_table`."""
    return label_table(tasks, np.zeros((0, len(tasks)), dtype=label_dtype(tasks))).schema


def count_classes(tasks: Sequence[Task], labels: np.ndarray) -> list[np.ndarray]:
    """Counts the labels of every task per class in a label matrix, shape `(num_samples, num_tasks)`."""
    return [count_labels(labels[:, i], task.num_classes) for i, task in enumerate(tasks)]


class TaskCounts:
    """Sums what `count_classes` returns over parts of a label matrix."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self.tasks = tasks
        self.counts = [np.zeros(task.num_classes, dtype=np.int64) for task in tasks]

    def add(self, labels: np.ndarray) -> None:
        """Adds a part of the matrix, shape `(num_samples, num_tasks)`."""
        for total, counts in zip(self.counts, count_classes(self.tasks, labels), strict=True):
            total += counts


def write_table(root: Store, name: str, table: pa.Table) -> dict[str, str]:
    """Writes a table and returns its entry for the manifest."""
    root.write(name, lambda path: pq.write_table(table, path, compression="zstd"))
    return describe_file(root, name)


def describe_file(root: Store, name: str) -> dict[str, str]:
    """Returns the manifest's entry for a file that has been written."""
    return {"file": name, "sha256": root.sha256(name)}
