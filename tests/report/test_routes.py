"""Which tasks share a route, in every report of a run; a run of an earlier version has a route for every task."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.local_records import as_older_version
from helpers.made_up_runs import MadeUp, write_run, write_shapes
from helpers.report_runs import TASKS, Write
from matl_scale.data.shards.label_association import cramers_v, mean_between_routes
from matl_scale.data.shards.manifest import read_manifest
from matl_scale.data.shards.open_labels import open_labels
from matl_scale.errors import InputError
from matl_scale.report.__main__ import main
from matl_scale.report.facts import collect_facts
from matl_scale.report.mask_overlap import independent_overlap, mask_overlap, measure_usage
from matl_scale.report.page.routing_section import build_routing_section
from matl_scale.report.page.task_table import build_task_table
from matl_scale.routes import Routes
from matl_scale.runs.history import RunHistory
from matl_scale.runs.layout import RunFolder
from matl_scale.runs.routes import describe_routes, read_routes, write_routes
from matl_scale.train.choose_routes import follow_mapping, task_sets

NAMES = [task.name for task in TASKS]
# the route of the first task is not the first one
SHARED = Routes.build(["late", "[b]early"], [1, 0, 1, 1])
MADE_UP = MadeUp(num_tasks=6, num_samples=400, num_evaluations=2)


@pytest.fixture
def shared(write: Write) -> Path:
    """A run of four tasks on two routes."""
    folder = write("shared")
    write_routes(RunFolder(folder).routes_file, NAMES, SHARED)
    return folder


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> RunHistory:
    """A run of six tasks on three routes, with masks and a shard set."""
    folder = tmp_path_factory.mktemp("drawn")
    run = write_run(folder / "run", MADE_UP, write_shapes(folder / "set", MADE_UP, num_train=300).root.local)
    routes = Routes.build(["x", "y", "z"], [2, 0, 0, 1, 2, 1])
    write_routes(run.files.routes_file, run.latest("test").tasks, routes)
    units = np.random.default_rng(0).permuted(np.tile(np.arange(8), (3, 1)), axis=1)
    np.savez_compressed(
        run.files.masks_file, layer=units < 4, other=units[:, :4] < np.median(units[:, :4], axis=1)[:, None]
    )
    return run


def test_routes_are_in_the_order_of_the_masks(tmp_path: Path) -> None:
    path = tmp_path / "routes.parquet"
    write_routes(path, NAMES, SHARED)
    assert list(read_routes(path).items()) == [("late", ["worse"]), ("[b]early", ["better", "same", "kind"])]
    # written by somebody else
    pq.write_table(pa.table({"task": NAMES, "route": ["y", "x", "y", "y"]}), path)
    assert list(read_routes(path).items()) == [("y", ["better", "same", "kind"]), ("x", ["worse"])]
    pq.write_table(pa.table({"task": NAMES, "route": ["y", None, "y", "y"]}), path)
    with pytest.raises(InputError, match="a task and a route in every row"):
        read_routes(path)


@pytest.mark.parametrize(
    ("sizes", "text"),
    [
        ([35, 45, 52, 43], "175 tasks on 4 routes (35 to 52 each)"),
        ([2, 2], "4 tasks on 2 routes (2 each)"),
        ([1, 1, 1], "3 tasks on 3 routes (1 each)"),
        ([1200], "1,200 tasks on 1 route"),
        ([1], "1 task on 1 route"),
    ],
)
def test_an_assignment_in_a_line(sizes: list[int], text: str) -> None:
    assert describe_routes({f"{i}": ["task"] * size for i, size in enumerate(sizes)}) == text


def test_a_run_without_the_table_has_a_route_for_every_task(write: Write) -> None:
    run = RunHistory(write("old"))
    assert run.routes == {name: [name] for name in NAMES}
    assert not run.shares_routes
    table = build_task_table(collect_facts(run, "test"))
    assert "route" not in [column.title for column in table.columns]


def test_a_table_that_lacks_a_task_is_refused(write: Write) -> None:
    run = RunHistory(write("run"))
    write_routes(run.files.routes_file, NAMES[:2], Routes.one_per_task(NAMES[:2]))
    with pytest.raises(InputError, match=r"routes\.parquet should have every task of the run. It lacks same, kind"):
        _ = run.routes


def test_the_terminal_names_routes(shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(shared)]) == 0
    shown = capsys.readouterr().out
    assert "4 tasks on 2 routes (1 to 3 each)" in shown
    [line] = [line for line in shown.splitlines() if line.startswith("better ")]
    assert line.split()[1] == "[b]early"
    assert "draws per route: least " in shown
    assert "labels seen per task: least better 0, worse 3,200, same 6,400; most kind 9,600" in shown


def test_equal_counts_are_said_once(shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draws = RunFolder(shared).draws_file
    table = pq.read_table(draws)
    same = table.drop(["draws", "labels"]).append_column("draws", [[60] * 4]).append_column("labels", [[960] * 4])
    as_older_version(draws, same)
    assert main([str(shared)]) == 0
    shown = capsys.readouterr().out
    assert "draws per route: 60 each" in shown
    assert "labels seen per task: 960 each" in shown


def test_json_can_be_given_back(shared: Path, tmp_path: Path) -> None:
    assert main([str(shared), "--json", str(tmp_path / "run.json"), "--tasks", "worse"]) == 0
    content = json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))["run"]
    assert [(task["task"], task["route"], task["labels_seen"]) for task in content["tasks"]] == [
        ("worse", "late", 3200)
    ]
    given = follow_mapping(content["routes"], NAMES)
    assert task_sets(given) == task_sets(SHARED)
    assert [given.names[i] for i in given.route_of] == [SHARED.names[i] for i in SHARED.route_of]


def test_labels_seen_of_an_old_run_are_unknown(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write("old")
    draws = RunFolder(folder).draws_file
    as_older_version(draws, pq.read_table(draws).drop(["labels"]))
    assert main([str(folder), "--json", str(tmp_path / "old.json")]) == 0
    shown = capsys.readouterr().out
    assert "draws per task: least better 0" in shown
    assert "labels seen" not in shown
    tasks = json.loads((tmp_path / "old.json").read_text(encoding="utf-8"))["run"]["tasks"]
    assert [(task["route"], task["labels_seen"]) for task in tasks] == [(name, None) for name in NAMES]
    table = build_task_table(collect_facts(RunHistory(folder), "test"))
    assert "labels seen" not in [column.title for column in table.columns]


def test_the_task_table_has_a_column(shared: Path) -> None:
    table = build_task_table(collect_facts(RunHistory(shared), "test"))
    titles = [column.title for column in table.columns]
    assert titles[-4:] == ["draws", "labels seen", "route", "note"]
    routes = {row[0]: row[titles.index("route")] for row in table.rows}
    assert routes == {"better": "[b]early", "worse": "late", "same": "[b]early", "kind": "[b]early"}


def test_routes_have_a_table(drawn: RunHistory) -> None:
    latest = drawn.latest("test")
    section = build_routing_section(drawn, latest)
    assert section is not None
    assert section.paragraphs[0] == "6 tasks on 3 routes (2 each)."
    table, _ = section.tables
    rows = {row[0]: row[1:] for row in table.rows}
    assert latest.labels_seen is not None
    values = dict(zip(latest.tasks, latest.metrics.values["balanced_accuracy"], strict=True))
    seen = dict(zip(latest.tasks, latest.labels_seen, strict=True))
    for route, tasks in drawn.routes.items():
        known = [values[task] for task in tasks if np.isfinite(values[task])]
        expected = [2, np.mean(known), min(known), seen[tasks[0]] // 32, sum(seen[task] for task in tasks)]
        assert rows[route] == pytest.approx(expected, abs=5e-4)
    means = [row[2] for row in table.rows]
    assert means == sorted(means, key=lambda value: float(value or 0))


def test_overlap_of_routes_is_set_beside_the_association_of_their_labels(drawn: RunHistory) -> None:
    latest = drawn.latest("test")
    section = build_routing_section(drawn, latest)
    assert section is not None
    manifest = read_manifest(drawn.config["data"]["path"])
    train = open_labels(manifest).labels.of_samples(manifest.sample_ids("train"))
    association = cramers_v(train, manifest.tasks)
    overlap = mask_overlap(dict(np.load(drawn.files.masks_file)))
    expected, within = {}, []
    task_ids = [[latest.tasks.index(task) for task in tasks] for tasks in drawn.routes.values()]
    for one, two in ((1, 0), (2, 0), (2, 1)):
        pairs = association[np.ix_(task_ids[one], task_ids[two])]
        if np.isfinite(pairs).any():
            expected[round(float(np.nanmean(pairs)), 4)] = round(float(overlap[one, two]), 4)
    within = [float(association[a, b]) for a, b in task_ids]
    points = section.figures[1].data[0]
    assert dict(zip(points["x"], points["y"], strict=True)) == pytest.approx(expected, abs=1e-4)
    assert any(f"two tasks: {np.nanmean(within):.3f} on the same route" in text for text in section.paragraphs)


def test_one_route_has_nothing_to_compare(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", MADE_UP)
    latest = run.latest("test")
    np.savez_compressed(run.files.masks_file, layer=np.ones((2, 8), dtype=bool))
    write_routes(run.files.routes_file, latest.tasks, Routes.build(["all"], [0] * 6))
    with pytest.raises(InputError, match="a row for each of the run's 1 routes"):
        build_routing_section(run, latest)
    np.savez_compressed(run.files.masks_file, layer=np.ones((1, 8), dtype=bool))
    section = build_routing_section(run, latest)
    assert section is not None
    assert not section.figures
    assert section.paragraphs == [
        "6 tasks on 1 route.",
        "A route has 100.0% of the 8 units of routed layers. 0 units serve no route.",
        "There are no masks to compare: all tasks use the same units.",
    ]


@pytest.mark.parametrize("route_of", [[0, 1, 2, 3, 4, 5, 6], [2, 0, 0, 1, 2, 0, 1], [0] * 7])
def test_means_between_routes_are_those_of_a_loop(route_of: list[int]) -> None:
    values = np.random.default_rng(0).random((7, 7)).astype(np.float32)
    values[np.random.default_rng(1).random((7, 7)) < 0.3] = np.nan
    values = np.maximum(values, values.T)  # NaN wins
    np.fill_diagonal(values, 1)
    means = mean_between_routes(values, route_of)
    for one in range(max(route_of) + 1):
        for two in range(max(route_of) + 1):
            pairs = [
                values[a, b]
                for a in range(7)
                for b in range(7)
                if (route_of[a], route_of[b]) == (one, two) and a != b and np.isfinite(values[a, b])
            ]
            assert means[one, two] == pytest.approx(np.mean(pairs) if pairs else np.nan, nan_ok=True)
    if len(set(route_of)) == 7:
        beside = ~np.eye(7, dtype=bool)
        np.testing.assert_array_equal(means[beside], values[beside].astype(np.float64))


def test_layers_with_different_sigma_overlap_by_their_own() -> None:
    generator = np.random.default_rng(0)
    masks = {
        name: generator.permuted(np.tile(np.arange(64) < active, (200, 1)), axis=1)
        for name, active in (("wide", 48), ("narrow", 16))
    }
    overlap = mask_overlap(masks)[np.tril_indices(200, -1)]
    assert independent_overlap(measure_usage(masks)) == pytest.approx(0.625)
    assert overlap.mean() == pytest.approx(0.625, abs=0.005)
