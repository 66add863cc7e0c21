"""The Parquet tables of a shard set: read with all checks that need no other table, and built."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from matl_scale.data.shards.layout import TASKS_SCHEMA, class_counts, label_dtype
from matl_scale.errors import InputError
from matl_scale.storage.store import Store
from matl_scale.tasks import Task


@contextmanager
def reading(place: str) -> Iterator[None]:
    """Turns what pyarrow raises for a damaged file into an `InputError` that names the place."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        text = " ".join(str(error).split())[:300]
        raise InputError(f"{place} cannot be read as Parquet: {text}.") from error


def read_table(root: Store, name: str, schema: pa.Schema, columns: list[str] | None = None) -> pa.Table:
    """Reads a table of the set.

    Raises:
        InputError: It cannot be read, or has other columns.
    """
    with root.fetched(name) as path, reading(f"{root}/{name}"):
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


def column_name(task_name: str) -> str:
    """Returns a task's Parquet column. Parquet readers take a dot as a path into a struct, so it is written otherwise."""
    return task_name.replace("%", "%25").replace(".", "%2E")


def tasks_table(
    tasks: Sequence[Task], places: Sequence[tuple[str, str]], counts: Sequence[np.ndarray], num_samples: int
) -> pa.Table:
    """Builds the table of a version's tasks.

    Args:
        tasks: In order.
        places: Per task, the file and the column that hold its labels.
        counts: Per task, the samples of each class.
        num_samples: Of the whole set.
    """
    return pa.table(
        {
            "name": [task.name for task in tasks],
            "classes": [list(task.classes) for task in tasks],
            "source": [task.source for task in tasks],
            "counts": [count.tolist() for count in counts],
            "missing": [int(num_samples - count.sum()) for count in counts],
            "file": [file for file, _ in places],
            "column": [column for _, column in places],
        },
        schema=TASKS_SCHEMA,
    )


def label_table(tasks: Sequence[Task], labels: np.ndarray) -> pa.Table:
    """Builds a table of labels, shape `(num_rows, num_tasks)`, with a column per task."""
    dtype = label_dtype(tasks)
    return pa.table({column_name(task.name): labels[:, i].astype(dtype) for i, task in enumerate(tasks)})


def count_classes(tasks: Sequence[Task], labels: np.ndarray) -> list[np.ndarray]:
    """Counts the classes of every task in a label matrix, shape `(num_rows, num_tasks)`."""
    return [class_counts(labels[:, i], task.num_classes) for i, task in enumerate(tasks)]


def write_table(root: Store, name: str, table: pa.Table) -> dict[str, str]:
    """Writes a table and returns its entry for the manifest."""
    root.write(name, lambda path: pq.write_table(table, path, compression="zstd"))
    return describe_file(root, name)


def describe_file(root: Store, name: str) -> dict[str, str]:
    """Returns the manifest's entry of a file that has been written."""
    return {"file": name, "sha256": root.sha256(name)}
