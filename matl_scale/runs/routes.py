"""`routes.parquet`: which route serves each task of a run."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from matl_scale.errors import InputError, one_line
from matl_scale.routes import Routes
from matl_scale.storage.files import write_atomic

COLUMNS = ("task", "route")
METADATA_KEY = b"matl_scale"


def write_routes(path: Path, tasks: Sequence[str], routes: Routes) -> None:
    """Writes the table: a row per task, in the run's order. Its metadata lists the routes in the order of the masks, which the
    rows do not tell."""
    table = pa.table({"task": list(tasks), "route": [routes.names[route] for route in routes.route_of]})
    table = table.replace_schema_metadata({METADATA_KEY: json.dumps({"routes": list(routes.names)})})
    write_atomic(path, lambda partial: pq.write_table(table, partial, compression="zstd"))


def read_routes(path: Path) -> dict[str, list[str]]:
    """Returns the tasks of each route by name, in the order of the masks; without metadata, in the order of their first tasks.

    Raises:
        InputError: The file is not such a table.
    """
    try:
        table = pq.read_table(path, columns=list(COLUMNS))
        rows = table.to_pylist()
        metadata = (table.schema.metadata or {}).get(METADATA_KEY)
        names = [] if metadata is None else json.loads(metadata)["routes"]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{path} should be a run's routes.parquet, with the columns task and route: {one_line(error)}."
        ) from error
    if not all(isinstance(row[column], str) for row in rows for column in COLUMNS):
        raise InputError(f"{path} should be a run's routes.parquet, with the name of a task and a route in every row.")
    routes: dict[str, list[str]] = {name: [] for name in names}
    for row in rows:
        routes.setdefault(row["route"], []).append(row["task"])
    return {name: tasks for name, tasks in routes.items() if tasks}


def describe_routes(routes: Mapping[str, Sequence[str]]) -> str:
    """Says how many tasks are on how many routes; `routes` has the tasks of each route by its name."""
    sizes = [len(tasks) for tasks in routes.values()]
    tasks = f"{sum(sizes):,} task{'s' if sum(sizes) > 1 else ''}"
    if len(sizes) == 1:
        return f"{tasks} on 1 route"
    each = f"{min(sizes):,}" if min(sizes) == max(sizes) else f"{min(sizes):,} to {max(sizes):,}"
    return f"{tasks} on {len(sizes):,} routes ({each} each)"
