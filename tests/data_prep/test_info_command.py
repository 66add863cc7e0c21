"""`matl-data info`: labels per image, and the routes of a run beside the tasks of a set."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.inspect.routes import read_routes as read_route_of
from helpers.commands import matl_data
from helpers.shard_sets import ShardSet
from matl_scale.data.shards.labels import Labels
from matl_scale.models.routing_config import RoutingConfig
from matl_scale.routes import Routes
from matl_scale.runs.routes import write_routes
from matl_scale.train.choose_routes import TrainLabels, choose_routes


def test_labels_per_image_are_those_that_auto_goes_by(small_set: ShardSet, capsys: pytest.CaptureFixture[str]) -> None:
    assert matl_data(["info", str(small_set.root)]) == 0
    shown = capsys.readouterr().out
    for split in ("train", "val"):
        labels = small_set.manifest.labels()[small_set.manifest.sample_ids(split)]
        counts = [int((row >= 0).sum()) for row in labels]
        expected = f"{np.mean([count for count in counts if count]):.3g} labels per image"
        assert any(line.strip().startswith(f"{split}: ") and line.endswith(expected) for line in shown.splitlines())
        if split == "train":
            train = TrainLabels(tasks=small_set.manifest.tasks, labels=Labels.of_matrix(labels), seed=0)
            reason = choose_routes(RoutingConfig(sigma=0.5), train).reason
            assert f"an image has {expected.removesuffix(' per image')} on average" in reason


def test_routes_are_shown_beside_the_tasks(
    small_set: ShardSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = small_set.manifest.task_names
    path = tmp_path / "routes.parquet"
    write_routes(path, names[:4], Routes.build(["[b]one", "two"], [1, 0, 1, 1]))
    assert matl_data(["info", str(small_set.root), "--routes", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["task", "route", "classes"]
    shown = {line.split()[0]: line.split()[1] for line in lines[1:7]}
    # the run was trained without the last two, whose second column is the number of classes
    assert shown == {**dict(zip(names, ["two", "[b]one", "two", "two"], strict=False)), names[4]: "5", names[5]: "2"}
    assert read_route_of(path, names) == dict(zip(names, ["two", "[b]one", "two", "two"], strict=False))


@pytest.mark.parametrize(
    ("table", "text"),
    [
        (None, "There is no file"),
        (b"task,route", "cannot be read as Parquet"),
        ({"task": ["task_0"], "draws": ["x"]}, "with the columns task and route. "),
        ({"task": ["task_0", None], "route": ["x", "y"]}, "a task and a route in every row"),
        ({"task": ["task_0", "task_9"], "route": ["x", "y"]}, "lacks 1 of its tasks: task_9"),
    ],
)
def test_another_table_is_refused_in_a_line(
    small_set: ShardSet,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    table: dict[str, list[str | None]] | bytes | None,
    text: str,
) -> None:
    path = tmp_path / "routes.parquet"
    if isinstance(table, bytes):
        path.write_bytes(table)
    elif table is not None:
        pq.write_table(pa.table(table), path)
    assert matl_data(["info", str(small_set.root), "--routes", str(path)]) == 2
    captured = capsys.readouterr()
    assert text in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""
