"""What a run records in its folder, and what is read from it again."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from helpers.local_records import as_older_version, log_evaluation
from matl_scale import InputError
from matl_scale.metrics.names import COUNTED_METRICS
from matl_scale.runs.history import RunHistory
from matl_scale.runs.records import LocalLog, RecordTail


def records(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_records_leave_out_what_is_not_finite_and_have_distinct_times(tmp_path: Path) -> None:
    log = LocalLog(tmp_path)
    for step in range(50):
        log.log(step, {"loss": 1.0, "bad": float("nan"), "worse": float("inf")})
    assert all(record.keys() == {"step", "time", "loss"} for record in records(tmp_path))
    times = [record["time"] for record in records(tmp_path)]
    assert sorted(set(times)) == times


def test_per_task_history_is_long_and_null_where_undefined(tmp_path: Path) -> None:
    log = LocalLog(tmp_path)
    log_evaluation(log, 1)
    log_evaluation(log, 2)
    log_evaluation(log, 2)  # again: replaced
    log_evaluation(log, 2, "test")
    table = pq.read_table(tmp_path / "per_task.parquet")
    assert table.column_names == ["step", "split", "task", "metric", "value", "count"]
    assert table.num_rows == 3 * 2 * len(COUNTED_METRICS)
    rows = {(r["step"], r["split"], r["task"], r["metric"]): (r["value"], r["count"]) for r in table.to_pylist()}
    assert rows[(2, "val", "a", "balanced_accuracy")] == (0.52, 7)
    assert rows[(2, "test", "b", "balanced_accuracy")] == (None, 8)


def test_draws_and_labels_seen_are_long_too(tmp_path: Path) -> None:
    log = LocalLog(tmp_path)
    log_evaluation(log, 1)
    log_evaluation(log, 2)
    rows = [tuple(row.values()) for row in pq.read_table(tmp_path / "draws.parquet").to_pylist()]
    assert rows == [(1, "a", 1, 7), (1, "b", 2, 8), (2, "a", 2, 14), (2, "b", 4, 16)]
    table = RunHistory(tmp_path).latest("val")
    assert table.draws is not None
    assert table.labels_seen is not None
    assert (table.draws.tolist(), table.labels_seen.tolist()) == ([2, 4], [14, 16])


def test_draws_of_an_older_version_go_on_without_labels_seen(tmp_path: Path) -> None:
    """Its table has no column `labels`."""
    log = LocalLog(tmp_path)
    log_evaluation(log, 1)
    old = pq.read_table(tmp_path / "draws.parquet").drop(["labels"])
    as_older_version(tmp_path / "draws.parquet", old)
    assert RunHistory(tmp_path).latest("val").labels_seen is None
    log_evaluation(log, 2)
    assert pq.read_table(tmp_path / "draws.parquet").num_rows == 4
    seen = RunHistory(tmp_path).latest("val").labels_seen
    assert seen is not None
    assert seen.tolist() == [14, 16]


def test_a_resumed_run_drops_what_came_after_its_checkpoint(tmp_path: Path) -> None:
    log = LocalLog(tmp_path)
    for step in (1, 2, 3):
        log.log(step, {"loss": 1.0})
        log_evaluation(log, step)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "ti')  # killed while writing
    log.forget_after(2)
    log.log(3, {"loss": 2.0})
    assert [record["step"] for record in records(tmp_path)] == [1, 2, 3]
    assert set(pq.read_table(tmp_path / "per_task.parquet")["step"].to_pylist()) == {1, 2}
    assert set(pq.read_table(tmp_path / "draws.parquet")["step"].to_pylist()) == {1, 2}


def test_records_are_read_from_where_they_stopped(tmp_path: Path) -> None:
    log, tail = LocalLog(tmp_path), RecordTail(tmp_path / "metrics.jsonl")
    assert tail.read_after(0) == []
    log.log(1, {"loss": 1.0})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "ti')  # not written to its end yet
    assert [record["step"] for record in tail.read_after(0)] == [1]
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('me": 3e9}\n')
    assert [record["step"] for record in tail.read_after(0)] == [2]
    log.forget_after(1)
    log.log(2, {"loss": 1.0})
    assert [record["step"] for record in tail.read_after(0)] == [1, 2]  # the file was replaced


def test_the_evaluation_made_last_is_shown_though_it_is_of_an_earlier_step(tmp_path: Path) -> None:
    log = LocalLog(tmp_path)
    for step in (1, 2, 3):
        log.log(step, {"val/tasks_evaluated": 2.0, "val/macro_loss": float(step)})
        log_evaluation(log, step)
    log.forget_evaluation(2, "val")
    log.log(2, {"val/tasks_evaluated": 2.0, "val/macro_loss": 2.0})
    log_evaluation(log, 2)  # matl-evaluate with the best network
    assert RunHistory(tmp_path).latest("val").step == 2
    assert sorted(record["step"] for record in records(tmp_path)) == [1, 2, 3]


def test_a_history_without_rows_is_one_line(tmp_path: Path) -> None:
    log = LocalLog(tmp_path)
    log_evaluation(log, 3)
    log.forget_after(1)
    with pytest.raises(InputError, match="has no evaluation: it went back to a step before its first one"):
        RunHistory(tmp_path)
