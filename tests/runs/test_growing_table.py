"""Tables that grow by a file per evaluation."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from matl_scale.runs.growing_table import GrowingTable, Part

ROWS = 3


def rows(step: int, split: str = "val", value: float = 0.0) -> pa.Table:
    columns = {"step": [step] * ROWS, "split": [split] * ROWS, "task": ["a", "b", "c"], "value": [value, 1.0, None]}
    return pa.table(columns)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "table.parquet"


def fill(path: Path) -> GrowingTable:
    table = GrowingTable(path)
    for step, split in ((2, "val"), (10, "val"), (10, "test-a/b")):
        table.append(rows(step, split), step, split)
    return table


def test_nothing_is_written_twice(path: Path) -> None:
    table = fill(path)
    before = {file.name: file.stat() for file in path.iterdir()}
    table.append(rows(11), 11, "val")
    after = {file.name: file.stat() for file in path.iterdir()}
    assert {name: after[name] for name in before} == before
    assert len(after) == len(before) + 1


def test_any_reader_sees_one_table_in_the_order_of_writing(path: Path) -> None:
    table = fill(path)
    table.append(rows(2, value=0.5), 2, "val")  # in exchange
    assert table.evaluations() == [(10, "val"), (10, "test-a/b"), (2, "val")]
    found = pq.read_table(path)
    assert found.equals(pa.concat_tables([rows(10), rows(10, "test-a/b"), rows(2, value=0.5)]))
    assert found.equals(table.read())


def test_rows_that_were_replaced_do_not_count_where_their_file_was_left(path: Path) -> None:
    """By a process that was killed before it removed it; the next one does."""
    table = fill(path)
    left = (path / "000001-2-val.parquet").read_bytes()
    table.append(rows(2, value=0.5), 2, "val")
    (path / "000001-2-val.parquet").write_bytes(left)
    expected = [rows(10), rows(10, "test-a/b"), rows(2, value=0.5)]
    assert table.evaluations() == [(10, "val"), (10, "test-a/b"), (2, "val")]
    assert table.read().equals(pa.concat_tables(expected))
    table.append(rows(2, value=0.7), 2, "val")
    assert len(list(path.iterdir())) == len(expected)


def test_a_reader_lists_again_when_a_file_has_gone(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table, lists = fill(path), []
    listed = table.parts()

    def parts() -> list[Part]:
        lists.append(listed if not lists else GrowingTable(path).parts())
        return lists[-1]

    monkeypatch.setattr(table, "parts", parts)
    GrowingTable(path).append(rows(2, value=0.5), 2, "val")
    assert table.read().num_rows == 3 * ROWS
    assert len(lists) == 2


def test_later_steps_are_dropped_and_numbers_go_on(path: Path) -> None:
    table = fill(path)
    table.forget_after(2)
    assert table.evaluations() == [(2, "val")]
    table.append(rows(3), 3, "val")
    assert pq.read_table(path).equals(pa.concat_tables([rows(2), rows(3)]))
    table.forget_after(0)
    assert (table.exists(), table.evaluations(), table.read().num_rows) == (True, [], 0)


def test_what_was_not_written_to_its_end_is_no_row(path: Path) -> None:
    table = fill(path)
    (path / ".partial-000004-11-val.parquet").write_bytes(b"PAR1 and no more")
    assert pq.read_table(path).num_rows == table.read().num_rows == 3 * ROWS
    table.append(rows(11), 11, "val")
    assert table.read().num_rows == 4 * ROWS


@pytest.mark.parametrize("broken_off", ["", "before", "between"])
def test_the_file_of_an_older_version_becomes_a_folder(path: Path, broken_off: str) -> None:
    """Also if that broke off: before the folder was complete, or when the file was removed and the folder not renamed."""
    old = pa.concat_tables([rows(2), rows(10), rows(10, "test-a/b")])
    pq.write_table(old, path)
    table = GrowingTable(path)
    assert table.read().equals(old)
    assert table.evaluations() == [(2, "val"), (10, "val"), (10, "test-a/b")]
    partial = path.with_name(f".partial-{path.name}")
    if broken_off == "before":
        partial.mkdir()
        (partial / "000001-2-val.parquet").write_bytes(b"PAR1 and no more")
    elif broken_off == "between":
        fill(partial)
        path.unlink()
    table.forget_after(10)
    assert table.read().equals(old)
    assert not partial.exists()
    table.append(rows(11), 11, "val")
    assert pq.read_table(path).equals(pa.concat_tables([old, rows(11)]))


def test_columns_that_an_older_version_did_not_write_are_null(path: Path) -> None:
    pq.write_table(rows(2).drop(["value"]), path)
    GrowingTable(path).append(rows(3), 3, "val")
    assert pq.read_table(path)["value"].to_pylist() == [None, None, None, 0.0, 1.0, None]
