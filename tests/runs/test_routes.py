"""`routes.parquet`: which route serves each task of a run, written and read back."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from matl_scale import InputError
from matl_scale.routes import Routes
from matl_scale.runs.routes import read_routes, write_routes

TASKS = ["a", "b", "c", "d"]
JOINED = Routes(names=("x", "y"), route_of=(1, 0, 1, 1), head_of=(1, 0, 1, 2))  # d joined the route y later


def test_tasks_by_route_are_read_back(tmp_path: Path) -> None:
    path = tmp_path / "routes.parquet"
    write_routes(path, TASKS, JOINED)
    rows = [tuple(row.values()) for row in pq.read_table(path).to_pylist()]
    assert rows == [("a", "y"), ("b", "x"), ("c", "y"), ("d", "y")]
    assert read_routes(path) == {"y": ["a", "c", "d"], "x": ["b"]}


def test_another_file_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "routes.parquet"
    with pytest.raises(InputError, match=r"should be a run's routes.parquet"):
        read_routes(path)
    path.write_text("task,route")
    with pytest.raises(InputError, match=r"should be a run's routes.parquet"):
        read_routes(path)
    pq.write_table(pa.table({"task": TASKS}), path)
    with pytest.raises(InputError, match=r"should be a run's routes.parquet, with the columns task and route"):
        read_routes(path)


def test_tasks_of_a_route_come_head_by_head() -> None:
    assert JOINED.heads_of == [[0], [1, 2]]
    assert JOINED.tasks_of_head == [[1], [0, 2], [3]]
    assert JOINED.tasks_of == [[1], [0, 2, 3]]
    assert JOINED.shared_by_tasks
    assert Routes.from_json(JOINED.to_json()) == JOINED


def test_a_route_for_every_task() -> None:
    routes = Routes.one_per_task(TASKS)
    assert routes.tasks_of == routes.heads_of == [[0], [1], [2], [3]]
    assert routes.names == tuple(TASKS)
    assert not routes.shared_by_tasks
