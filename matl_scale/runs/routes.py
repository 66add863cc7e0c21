"""`routes.parquet`: which route serves each task of a run."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from matl_scale.errors import InputError
from matl_scale.routes import Routes
from matl_scale.storage.files import write_atomic

COLUMNS = ("task", "route")


def write_routes(path: Path, tasks: Sequence[str], routes: Routes) -> None:
    """Writes the table: a row per task, in the run's order."""
    table = pa.table({"task": list(tasks), "route": [routes.names[route] for route in routes.route_of]})
    write_atomic(path, lambda partial: pq.write_table(table, partial, compression="zstd"))


def read_routes(path: Path) -> dict[str, list[str]]:
    """Returns the tasks of each route by name; raises `InputError` if the file is not such a table."""
    try:
        rows = pq.read_table(path, columns=list(COLUMNS)).to_pylist()
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{path} should be a run's routes.parquet, with the columns task and route: {error}."
        ) from error
    routes: dict[str, list[str]] = {}
    for row in rows:
        routes.setdefault(row["route"], []).append(row["task"])
    return routes
