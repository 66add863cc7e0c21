"""More label tables from the field: rows and columns that are no labels, formulas that failed, types that cannot be tasks."""

import datetime
from pathlib import Path

import pyarrow as pa
import pytest

from data_prep.labels.label_file import LabelFile
from data_prep.labels.matrix import ColumnRoles, Labels, read_labels
from data_prep.labels.one_vs_rest import OneVsRest
from helpers.label_tables import decoded, read
from matl_scale.errors import InputError
from matl_scale.tasks import Task


# Report: "pandas reads trailing empty rows from Excel as NaN rows": rows of separators only, anywhere in the file
def test_rows_without_any_cell_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = read(tmp_path, "image,x,y\na,1,u\n,,\nb,0,v\n , ,\t\n,,\n")
    assert decoded(found) == {"x": ["1", "0"], "y": ["u", "v"]}
    assert len(found.index) == 2
    assert "left out 3 rows without any cell" in capsys.readouterr().err


def test_rows_without_any_cell_are_left_out_of_parquet_too(tmp_path: Path) -> None:
    table = pa.table({"image": ["a", None, "b"], "x": [1, None, 0], "s": ["train", None, "val"]})
    found = read(tmp_path, table, "labels.parquet", split="s")
    assert decoded(found) == {"x": ["1", "0"]}
    assert found.splits is not None
    assert len(found.splits[1]) == 2


def test_a_row_with_labels_and_no_image_is_refused_by_its_number(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"every row should have a value in column `image`\. Data row 3 has none"):
        read(tmp_path, "image,x\na,1\n,\n,0\nb,0\n")


def test_rows_are_left_out_over_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first rows without any cell are found in a later batch than the first."""
    monkeypatch.setattr("data_prep.labels.label_file.BATCH_ROWS", 4)
    rows: list[str | None] = [f"{i:02d}" if i % 3 else None for i in range(1, 24)]
    table = pa.table({"image": rows, "x": [row and int(row) % 2 for row in rows]})
    found = read(tmp_path, table, "labels.parquet")
    assert decoded(found)["x"] == [str(int(row) % 2) for row in rows if row]
    names = [name for chunk in LabelFile(str(tmp_path / "labels.parquet")).keys("image") for name in chunk]
    assert names == [row for row in rows if row]


# Report: "#REF! shows up as a category": a formula of a spreadsheet that failed
@pytest.mark.parametrize("cells", [("1", "0", "#REF!"), ("cat", "dog", "#DIV/0!"), ("true", "false", "#VALUE!")])
def test_formulas_that_failed_are_no_classes(tmp_path: Path, cells: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match=rf"column `x`: formulas of a spreadsheet have failed \({cells[2]}\)"):
        read(tmp_path, "image,x\n" + "".join(f"{i},{cell}\n" for i, cell in enumerate(cells)))


# Report: "had to fix my metadata table one column at a time": captions, dates, lists and constants beside the labels
def test_all_columns_that_cannot_be_tasks_are_named_at_once(tmp_path: Path) -> None:
    table = pa.table(
        {
            "image": ["a", "b"],
            "x": [0, 1],
            "taken": [datetime.datetime(2026, 1, 1)] * 2,
            "tags": [["u"], ["v", "w"]],
            "source": ["flickr", "flickr"],
            "score": [0.5, 0.25],
        }
    )
    with pytest.raises(InputError) as refused:
        read(tmp_path, table, "labels.parquet")
    text = str(refused.value)
    assert "4 columns cannot be tasks" in text
    for reason in (
        "`taken`: labels",
        "timestamp",
        "`tags`",
        "a column of its own",
        "only 'flickr'",
        "fractions",
    ):
        assert reason in text
    assert decoded(read(tmp_path, table, "labels.parquet", tasks=["x"])) == {"x": ["0", "1"]}
    assert text.endswith("--exclude taken tags source score")
    assert decoded(read(tmp_path, table, "labels.parquet", exclude=["t*", "source", "score"])) == {"x": ["0", "1"]}


# Report: "Infinity in a float column": a division by zero before the table was saved
def test_infinity_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"column `x`: .* Got infinity"):
        read(tmp_path, pa.table({"image": ["a", "b"], "x": [1.0, float("inf")]}), "labels.parquet")


# Report: "img2dataset: CSV parse error: Expected 1 columns": a comment above the header
def test_a_comment_above_the_header_is_recognised(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Is its first line a comment"):
        read(tmp_path, "# exported by a tool, 2026\nimage,x\na,1\nb,0\n")


# Report: "csv_dataset raises AttributeError on a ragged row": a row with too few or too many cells
@pytest.mark.parametrize("row", ["b", "b,1,2"])
def test_ragged_rows_are_refused_by_their_number(tmp_path: Path, row: str) -> None:
    with pytest.raises(InputError, match=r"labels.csv cannot be read: .*Row #3: Expected 2 columns"):
        read(tmp_path, f"image,x\na,1\n{row}\nc,0\n")


# Report: "boolean column with NaN becomes object": typed columns with gaps keep their classes
def test_gaps_in_typed_columns_are_missing(tmp_path: Path) -> None:
    table = pa.table(
        {
            "image": ["a", "b", "c"],
            "flag": [True, None, False],
            "kind": pa.array(["u", None, "v"]).dictionary_encode(),
            "grade": pa.array([3, None, 1], pa.int16()),
        }
    )
    assert decoded(read(tmp_path, table, "labels.parquet")) == {
        "flag": ["true", None, "false"],
        "kind": ["u", None, "v"],
        "grade": ["3", None, "1"],
    }


# Report: "ids above 2^53 lose digits": whole numbers of any size are classes of their own
def test_numbers_of_any_size_are_told_apart(tmp_path: Path) -> None:
    found = decoded(read(tmp_path, f"image,x\na,{10**25}\nb,{10**25 + 1}\n"))
    assert found == {"x": [str(10**25), str(10**25 + 1)]}


# Report: "had to list 37 columns to leave out one": a table whose columns are labels but for a few
class TestExclude:
    TABLE = "image,Unnamed: 1,x,price,y\na,u,1,2.5,p\nb,v,0,3.5,q\n"

    def test_columns_are_left_out_by_name_and_pattern(self, tmp_path: Path) -> None:
        assert list(decoded(read(tmp_path, self.TABLE, exclude=["pri*", "Unnamed: 1"]))) == ["x", "y"]
        assert list(decoded(read(tmp_path, self.TABLE, exclude=["price"], tasks=["*"]))) == ["x", "y"]

    def test_a_pattern_without_a_column_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(
            InputError, match=r"`--exclude` should match names of columns. `prize` matches none .*`price`"
        ):
            read(tmp_path, self.TABLE, exclude=["prize"])

    def test_a_column_cannot_be_taken_apart_and_left_out(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="Column `y` matches both `--one-vs-rest` and `--exclude`"):
            read(tmp_path, self.TABLE, exclude=["Unnamed: 1", "price", "y"], one_vs_rest=OneVsRest(columns=["y"]))

    def test_nothing_may_be_left(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="no label column beside `image`, `x`"):
            read(tmp_path, "image,x\na,1\nb,0\n", exclude=["x"])

    def test_tasks_of_the_set_that_rows_join_stay(self, tmp_path: Path) -> None:
        known = [Task(name="x", classes=("0", "1")), Task(name="y", classes=("p", "q"))]
        (tmp_path / "labels.csv").write_text(self.TABLE)

        def join(exclude: list[str]) -> Labels:
            return read_labels(str(tmp_path / "labels.csv"), ColumnRoles(exclude=exclude), tmp_path, known)

        with pytest.raises(
            InputError, match="`--exclude`: the rows will join a shard set, whose tasks have to stay: y"
        ):
            join(["price", "y"])
        assert list(decoded(join(["price"]))) == ["x", "y"]


# Report: "index column breaks after saving from Excel": row numbers without a header, and rows of commas at the end
def test_row_numbers_end_where_the_rows_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert decoded(read(tmp_path, ",image,x\n0,a,1\n1,b,0\n,,\n,,\n")) == {"x": ["1", "0"]}
    assert "it numbers the rows" in capsys.readouterr().err


# Report: "max uint64 as nodata": a sentinel that no signed number holds
def test_a_sentinel_larger_than_all_labels(tmp_path: Path) -> None:
    largest = 2**64 - 1
    table = pa.table({"image": ["a", "b", "c"], "x": pa.array([1, largest, 0], pa.uint64())})
    assert decoded(read(tmp_path, table, "labels.parquet", missing=[str(largest)])) == {"x": ["1", None, "0"]}
