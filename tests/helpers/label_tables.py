"""Label tables written and read in one call, and what their cells became."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.labels.matrix import ColumnRoles, Labels, read_labels
from matl_scale.tasks import Task


def read(
    path: Path,
    content: str | bytes | pa.Table,
    name: str = "labels.csv",
    known_tasks: Sequence[Task] = (),
    **roles: object,
) -> Labels:
    path /= name
    if isinstance(content, pa.Table):
        pq.write_table(content, path)
    else:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_labels(str(path), ColumnRoles(**roles), path.parent, known_tasks)  # type: ignore[arg-type]


def decoded(found: Labels) -> dict[str, list[str | None]]:
    """Returns the class name of every row, None where there is no label, by task."""
    return {
        task.name: [None if label < 0 else task.classes[label] for label in found.matrix[:, column].tolist()]
        for column, task in enumerate(found.tasks)
    }
