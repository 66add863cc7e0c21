"""Reads the labels of a shard set from its files, some rows at a time, with all checks."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from matl_scale.data.shards.layout import MISSING, label_dtype
from matl_scale.data.shards.tables import LabelReference, as_numbers, parquet_errors
from matl_scale.errors import InputError
from matl_scale.storage.store import Store
from matl_scale.tasks import Task


def read_label_groups(
    root: Store,
    num_samples: int,
    tasks: Sequence[Task],
    references: Sequence[LabelReference],
    task_ids: Sequence[int],
    num_rows: int,
) -> Iterator[np.ndarray]:
    """Yields rows of the label matrix of some tasks.

    Args:
        root: The set's folder.
        num_samples: The rows that each file should have.
        tasks: All tasks of the set.
        references: Where the labels of each task are.
        task_ids: The tasks to read, in the order of the columns.
        num_rows: The rows of a group.

    Yields:
        Shape `(num_rows, len(task_ids))`, −1 where there is no label; the column of each task is contiguous. The last group
        may have fewer rows.

    Raises:
        InputError: A file does not match the samples, or holds a value that is no class of its task.
    """
    dtype = label_dtype([tasks[i] for i in task_ids])
    with ExitStack() as stack:
        parts = []
        for name in sorted({references[i].file for i in task_ids}):
            own = [column for column, task_id in enumerate(task_ids) if references[task_id].file == name]
            context = f"{root}/{name}"
            path = stack.enter_context(root.fetched(name))
            with parquet_errors(context):
                file = pq.ParquetFile(path)
            if file.metadata.num_rows != num_samples:
                raise InputError(
                    f"{context} should have one row per sample ({num_samples}). Got {file.metadata.num_rows}."
                )
            check_columns(file, context, {tasks[task_ids[i]].name: references[task_ids[i]].column for i in own})
            names = [references[task_ids[i]].column for i in own]
            batches = file.iter_batches(batch_size=num_rows, columns=list(dict.fromkeys(names)))
            parts.append((context, own, names, in_groups(batches, num_rows)))
        for start in range(0, num_samples, num_rows):
            labels = np.empty((min(num_rows, num_samples - start), len(task_ids)), dtype=dtype, order="F")
            for context, own, names, groups in parts:
                with parquet_errors(context):
                    table = next(groups)
                for i, name in zip(own, names, strict=True):
                    task = tasks[task_ids[i]]
                    labels[:, i] = check_labels(table.column(name), task, f"{context}, task `{task.name}`")
            yield labels


def check_columns(file: pq.ParquetFile, context: str, column_of: dict[str, str]) -> None:
    """Raises `InputError` if a file lacks the column of a task."""
    there = set(file.schema_arrow.names)
    for task, column in column_of.items():
        if column not in there:
            raise InputError(
                f"{context}, task `{task}`: the file has no column {column!r}. Restore the file from a copy."
            )


def in_groups(batches: Iterable[pa.RecordBatch], num_rows: int) -> Iterator[pa.Table]:
    """Yields the same rows in tables of exactly so many rows, and the rest."""
    held: list[pa.RecordBatch] = []
    missing = num_rows
    for batch in batches:
        while batch.num_rows:
            part = batch.slice(0, missing)
            held.append(part)
            missing -= part.num_rows
            batch = batch.slice(part.num_rows)
            if not missing:
                yield pa.Table.from_batches(held)
                held, missing = [], num_rows
    if held:
        yield pa.Table.from_batches(held)


def check_labels(values: pa.ChunkedArray, task: Task, context: str) -> np.ndarray:
    """Returns labels as numbers; raises `InputError` if a value is not one of the task's classes."""
    if not pa.types.is_integer(values.type) or values.null_count:
        raise InputError(f"{context}: labels should be integers without gaps. Got {values.type}.")
    numbers = as_numbers(values)
    if len(numbers) and (numbers.min() < MISSING or numbers.max() >= task.num_classes):
        raise InputError(
            f"{context}: labels should lie between {MISSING} and {task.num_classes - 1}. "
            f"Got {numbers.min()} to {numbers.max()}."
        )
    return numbers
