"""Reads which route serves each task of a run, for `matl-data info --routes`. No part of a run's code is needed for that."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from matl_scale.errors import InputError, nearest, one_line, shortened

COLUMNS = ("task", "route")


def read_routes(path: Path, tasks: Sequence[str]) -> dict[str, str]:
    """Returns the route of each task from a run's routes.parquet; `tasks` are those of the shard set. Some may have none.

    Raises:
        InputError: There is no such file, it has other columns, or it names a task that the set lacks.
    """
    if not path.is_file():
        raise InputError(f"--routes should be a run's routes.parquet. There is no file {path}.")
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"--routes {path} cannot be read as Parquet: {one_line(error)}.") from error
    if sorted(table.column_names) != sorted(COLUMNS):
        raise InputError(
            f"--routes should be a run's routes.parquet, with the columns task and route. {path} has "
            f"{shortened(table.column_names)}."
        )
    routes, known = dict(zip(*(table[column].to_pylist() for column in COLUMNS), strict=True)), set(tasks)
    if not all(isinstance(name, str) for pair in routes.items() for name in pair):
        raise InputError(f"--routes {path} should have the name of a task and a route in every row.")
    if missing := [name for name in routes if name not in known]:
        raise InputError(
            f"--routes {path}: the set lacks {len(missing)} of its tasks: {shortened(missing)}. Give the routes of a run on this "
            f"set, or the version of its labels with --version.{nearest(missing[0], tasks)}"
        )
    return routes
