"""A column of a label file with the tasks that its cells are labels of, and the label matrix of such columns on disk."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_prep.labels.cells import stored_values
from data_prep.labels.label_file import LabelFile
from matl_scale.data.shards.layout import MISSING, label_dtype
from matl_scale.tasks import Task

MAX_INT64 = 2**63 - 1


@dataclass(frozen=True, kw_only=True)
class LabelColumn:
    """A column of a label file: most are the labels of one task, one that is taken apart is those of several."""

    name: str  # of the column
    tasks: Sequence[Task]  # the tasks
    labels: Mapping[object, Sequence[int]]  # for each stored value that is a label, the class index of each task

    @classmethod
    def of_task(cls, task: Task, classes: Mapping[object, str]) -> "LabelColumn":
        """Returns the column of one task, called like it, from the class name of each stored value."""
        index_of = {name: i for i, name in enumerate(task.classes)}
        labels = {value: (index_of[class_name],) for value, class_name in classes.items()}
        return cls(name=task.name, tasks=[task], labels=labels)


def write_matrix(
    file: LabelFile, columns: Sequence[LabelColumn], tasks: Sequence[Task], num_rows: int, path: Path
) -> np.ndarray:
    """Writes the label matrix of `tasks`, which some columns of the file have, to `path`. Returns it, shape
    `(num_rows, num_tasks)`, mapped into memory.
    """
    dtype = label_dtype(tasks)
    index_of = {task.name: i for i, task in enumerate(tasks)}
    targets = [[index_of[task.name] for task in column.tasks] for column in columns]
    tables = [(as_array(list(column.labels)), as_table(column, dtype)) for column in columns]
    with path.open("wb") as out:
        for batch in file.batches([column.name for column in columns]):
            block = np.empty((batch.num_rows, len(tasks)), dtype=dtype)
            for i, (values, table) in enumerate(tables):
                cells = stored_values(batch.column(i), f"{file.path}, column `{columns[i].name}`")
                block[:, targets[i]] = table[find_indices(cells, values)]
            block.tofile(out)
    return map_matrix(path, dtype, num_rows, len(tasks))


def as_array(values: Sequence[object]) -> pa.Array:
    is_big = any(isinstance(value, int) and value > MAX_INT64 for value in values)
    return pa.array(values, pa.uint64() if is_big else None)


def as_table(column: LabelColumn, dtype: np.dtype) -> np.ndarray:
    """Returns the labels of each stored value, and a last row for cells without one, shape `(num_values + 1, num_tasks)`."""
    table = np.full((len(column.labels) + 1, len(column.tasks)), MISSING, dtype=dtype)
    if column.labels:
        table[:-1] = list(column.labels.values())
    return table


def find_indices(cells: pa.Array, values: pa.Array) -> np.ndarray:
    """Returns the index of each cell in `values`, −1 for missing ones."""
    if not len(values):
        return np.full(len(cells), -1)
    if cells.type == pa.uint64():  # a word that means missing may be larger than all labels
        values = values.cast(pa.uint64())
    found = pc.index_in(cells.cast(values.type), value_set=values)
    indices: np.ndarray = found.fill_null(-1).to_numpy(zero_copy_only=False)
    return indices


def map_matrix(path: Path, dtype: np.dtype, num_rows: int, num_columns: int) -> np.ndarray:
    """Maps a file of numbers into memory, shape `(num_rows, num_columns)`."""
    if not num_rows * num_columns:
        return np.empty((num_rows, num_columns), dtype=dtype)
    return np.memmap(path, dtype=dtype, mode="r", shape=(num_rows, num_columns))
