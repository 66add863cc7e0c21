"""Label tables as people have them: what each cell, header, separator and encoding becomes. Every table is made here."""

import gzip
import tarfile
import time
from itertools import combinations
from pathlib import Path

import pyarrow as pa
import pyarrow.feather
import pytest

from data_prep.labels.matrix import ColumnRoles, read_labels
from data_prep.labels.missing_words import DEFAULT_WORDS
from data_prep.labels.white_space import trim
from data_prep.task_changes import relabel_tasks
from helpers.commands import matl_data, shard_arguments
from helpers.label_tables import decoded, read
from helpers.sources_on_disk import write_images
from matl_scale.data.shards.manifest import read_manifest
from matl_scale.errors import InputError
from matl_scale.tasks import Task, match_names


def column(*cells: str) -> str:
    return "\n".join(["image,x", *(f"{i},{cell}" for i, cell in enumerate(cells))]) + "\n"


# Reports: "NaN as string class", "pandas turned my None into a label": words for missing in columns of every kind
@pytest.mark.parametrize("word", [*sorted(DEFAULT_WORDS), " ", "\t", "\u00a0", " NA ", '""', '" "'])
def test_missing_words_are_missing_in_every_kind_of_column(tmp_path: Path, word: str) -> None:
    lines = ["image,word,flag,number,code", "a,cat,True,1,007", f"b,{word},{word},{word},{word}", "c,dog,false,0,7"]
    found = decoded(read(tmp_path, "\n".join(lines), text=["code"]))
    assert found == {
        "word": ["cat", None, "dog"],
        "flag": ["true", None, "false"],
        "number": ["1", None, "0"],
        "code": ["007", None, "7"],
    }
    word = word.strip('"')
    table = pa.table({"image": ["a", "b", "c"], "word": ["cat", word, "dog"]})
    assert decoded(read(tmp_path, table, "labels.parquet")) == {"word": ["cat", None, "dog"]}


def test_missing_words_are_those_of_pandas() -> None:
    parsers = pytest.importorskip("pandas._libs.parsers")
    assert parsers.STR_NA_VALUES - {""} <= DEFAULT_WORDS  # older versions have fewer


def test_missing_words_are_reported_once_with_their_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    read(tmp_path, "image,hair,x\na,NA,1\nb,NA,0\nc,None,\nd,red,1\ne,black, \n")
    assert capsys.readouterr().err.splitlines()[0] == (
        f"{tmp_path}/labels.csv: taken as missing labels: 2 `NA`, 1 `None` in `hair`. "
        "--missing-values '' keeps all words as classes, --missing-values 'COLUMN=' those of one column"
    )


def test_words_in_other_case_are_classes(tmp_path: Path) -> None:
    assert decoded(read(tmp_path, column("none", "Na", "cat"))) == {"x": ["none", "Na", "cat"]}


def test_a_column_left_with_one_class_says_which_words_were_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Got only 'cat', and 2 `None`, which mean that a label is missing"):
        read(tmp_path, column("None", "cat", "None"))


# Reports: "same label twice", "KeyError ' smiling'": spreadsheets with blanks, no-break spaces and byte order marks
@pytest.mark.parametrize("blank", [" ", "\t", "\u00a0", "\u2003", "\u3000", "\ufeff", "\u200b", " \ufeff "])
def test_white_space_around_cells_and_headers_does_not_count(tmp_path: Path, blank: str) -> None:
    text = f"image{blank},{blank}smiling{blank}\na,yes{blank}\nb,{blank}yes\nc,no\nd,{blank}\n"
    found = read(tmp_path, text)
    assert decoded(found) == {"smiling": ["yes", "yes", "no", None]}
    assert found.tasks[0].classes == ("no", "yes")
    assert trim(f"{blank}a b{blank}") == "a b"


def test_headers_that_are_equal_but_for_blanks_are_both_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"' smiling' \(column 2\) and 'smiling' \(column 3\)"):
        read(tmp_path, "image, smiling,smiling\na,1,0\n")


def test_classes_equal_but_for_case_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = read(tmp_path, column("No", "no", "yes", "Yes", "é", "e\u0301"))
    assert set(found.tasks[0].classes) == {"No", "no", "yes", "Yes", "é", "e\u0301"}
    said = capsys.readouterr().err
    assert "column `x`: these are different classes: `No`, `no`; `Yes`, `yes`; " in said
    assert "spell them alike in the file" in said


def test_spellings_of_booleans_and_numbers_stay_one_class(tmp_path: Path) -> None:
    assert decoded(read(tmp_path, column("True", "TRUE ", "false"))) == {"x": ["true", "true", "false"]}
    assert decoded(read(tmp_path, column("1.0", " 1", "-1", "01"))) == {"x": ["1", "1", "-1", "1"]}


# Reports: "Unnamed: 0 became a label", "index column as target": what pandas writes without index=False
@pytest.mark.parametrize("header", ["", "Unnamed: 0", "Unnamed: 0.1", "__index_level_0__", " "])
@pytest.mark.parametrize("numbers", [range(3), range(1, 4), (7, 2, 5)])
def test_row_numbers_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], header: str, numbers: range
) -> None:
    rows = "".join(f"{number},{name},{i % 2}\n" for i, (number, name) in enumerate(zip(numbers, "abc", strict=True)))
    assert list(decoded(read(tmp_path, f"{header},image,x\n{rows}"))) == ["x"]
    assert "labels.csv: left out column 1 (" in capsys.readouterr().err
    table = pa.table({header: list(numbers), "image": list("abc"), "x": [0, 1, 0]})
    assert list(decoded(read(tmp_path, table, "labels.parquet"))) == ["x"]
    said = capsys.readouterr().err
    assert "labels.parquet: left out column 1 (" in said
    assert "it numbers the rows" in said


# Report: tables that were joined with pd.concat keep the row numbers of each; after a join they have gaps and are floats
@pytest.mark.parametrize(
    "numbers", [[*range(60), *range(80)], [*range(0, 200, 2), *range(5, 45)], [i + 0.0 for i in range(140)]]
)
def test_row_numbers_of_joined_tables_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], numbers: list[float]
) -> None:
    rows = "".join(f"{number},i{i},{i % 2}\n" for i, number in enumerate(numbers))
    assert list(decoded(read(tmp_path, f"Unnamed: 0,image,x\n{rows}"))) == ["x"]
    assert "left out column 1 (`Unnamed: 0`): it numbers the rows" in capsys.readouterr().err


@pytest.mark.parametrize(
    "values", [[i % 2 for i in range(140)], [i // 20 for i in range(140)], [i % 10 for i in range(140)]]
)
def test_classes_in_a_column_without_a_name_are_asked_about(tmp_path: Path, values: list[int]) -> None:
    rows = "".join(f"{value},i{i},{i % 2}\n" for i, value in enumerate(values))
    with pytest.raises(InputError, match="Column 1 has no name and values"):
        read(tmp_path, f",image,x\n{rows}")


def test_columns_that_users_named_are_used(tmp_path: Path) -> None:
    assert decoded(read(tmp_path, "image,index\na,0\nb,1\n")) == {"index": ["0", "1"]}
    text = "Unnamed: 0,x\n0,1\n1,0\n"
    assert decoded(read(tmp_path, text, image="Unnamed: 0")) == {"x": ["1", "0"]}
    text = "image,Unnamed: 1,x\na,0,1\nb,1,0\n"
    assert list(decoded(read(tmp_path, text, tasks=["Unnamed: 1"]))) == ["Unnamed: 1"]


# Report: pandas' index held the images' names, and was written without a name
def test_a_column_without_a_name_can_be_chosen(tmp_path: Path) -> None:
    text = ",x\na,0\nb,1\n"
    with pytest.raises(InputError, match=r"It has: one without a name, x. The column without a name is chosen with ''"):
        read(tmp_path, text)
    assert decoded(read(tmp_path, text, image="")) == {"x": ["0", "1"]}
    with pytest.raises(InputError, match=r"`--tasks` should match names of tasks. `` matches none of the 1 tasks"):
        read(tmp_path, ",image,x\n0,a,0\n1,b,1\n", tasks=[""])


# Report: Excel writes the empty columns that somebody once touched
def test_empty_columns_of_spreadsheets_are_ignored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert decoded(read(tmp_path, "image,x,,\na,1,,\nb,0,, \n")) == {"x": ["1", "0"]}
    assert "left out column 3 (no name), column 4 (no name): no name and no values" in capsys.readouterr().err


def test_an_unnamed_column_with_labels_is_asked_about(tmp_path: Path) -> None:
    text = "image,x,\na,1,cat\nb,0,cat\n"
    with pytest.raises(InputError, match=r"Column 3 has no name and values \(cat, cat\). Name it, remove it, or"):
        read(tmp_path, text)
    assert list(decoded(read(tmp_path, text, tasks=["x"]))) == ["x"]


# Report: a one-hot table of symbols; names that act as patterns
def test_a_column_called_like_a_pattern_is_only_itself(tmp_path: Path) -> None:
    text = "image,*,a?,ab,x[1]\n1,0,1,0,1\n2,1,0,1,0\n"
    assert list(decoded(read(tmp_path, text))) == ["*", "a?", "ab", "x[1]"]
    assert list(decoded(read(tmp_path, text, tasks=["*"]))) == ["*"]
    assert list(decoded(read(tmp_path, text, tasks=["a?", "x[1]"]))) == ["a?", "x[1]"]
    assert list(decoded(read(tmp_path, text, tasks=["a[?]"]))) == ["a?"]
    assert match_names(["a", "b"], "*", "--tasks") == [0, 1]


def test_the_default_means_all_tasks_of_a_set_with_a_star(tmp_path: Path) -> None:
    from matl_scale.data.loading.config import DataConfig
    from matl_scale.train.run_data import build_run_data

    names = write_images(tmp_path / "images", 6)
    (tmp_path / "labels.csv").write_text("image,*,b\n" + "".join(f"{n},{i % 2},{i % 3}\n" for i, n in enumerate(names)))
    assert matl_data(shard_arguments(tmp_path, tmp_path / "set", "--workers", "1")) == 0

    def names_of(**tasks: object) -> list[str]:
        data = build_run_data(DataConfig(path=str(tmp_path / "set"), workers=0, **tasks))  # type: ignore[arg-type]
        return [task.name for task in data.tasks]

    assert names_of() == ["*", "b"]
    assert names_of(tasks=["*"]) == ["*"]
    assert names_of(tasks=["[*]"]) == ["*"]


# Reports: "CSV parser got out of sync", "Expected 3 columns": notes with line breaks, in a column that nobody uses
def test_line_breaks_in_quoted_cells_of_large_files(tmp_path: Path) -> None:
    note = '"' + "a line\n" * 1000 + '"'
    text = "image,x,note\n" + "".join(f"{i},{i % 2},{note}\n" for i in range(3000))
    assert len(text) > 2**24
    start = time.perf_counter()
    found = read(tmp_path, text, tasks=["x"])
    assert found.matrix[:, 0].tolist() == [0, 1] * 1500
    assert time.perf_counter() - start < 30


TABLE = "image,smiling,hair\na,1,röd\nb,0,grün\n"
EXPECTED = {"smiling": ["1", "0"], "hair": ["röd", "grün"]}


# Reports: a European Excel's CSV, a tab-separated export, SQL dumps with bars, PowerShell's UTF-16, "sep=;" for Excel
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "cp1252"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_separators_encodings_and_line_ends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], separator: str, encoding: str, end: str
) -> None:
    text = TABLE.replace(",", separator).replace("\n", end)
    assert decoded(read(tmp_path, text.encode(encoding), "labels.TSV")) == EXPECTED
    assert ("read as Windows-1252" in capsys.readouterr().err) == (encoding == "cp1252")


@pytest.mark.parametrize("first", ["sep=;\n", '"sep=;"\r\n', "\n\n", "\r\n"])
def test_lines_before_the_header(tmp_path: Path, first: str) -> None:
    assert decoded(read(tmp_path, first + TABLE.replace(",", ";"))) == EXPECTED


def test_a_separator_in_a_name_does_not_confuse(tmp_path: Path) -> None:
    assert decoded(read(tmp_path, "image;x,y;z\na;1;0\nb;0;1\n")) == {"x,y": ["1", "0"], "z": ["0", "1"]}
    assert decoded(read(tmp_path, "image,x;y\na,1\nb,0\n")) == {"x;y": ["1", "0"]}
    with pytest.raises(InputError, match=r"no column `image`\. It has: picture, x, y"):
        read(tmp_path, "picture;x;y\na;1;0\n")


def test_compressed_tables_are_read(tmp_path: Path) -> None:
    assert decoded(read(tmp_path, gzip.compress(TABLE.encode()), "labels.csv.gz")) == EXPECTED


def test_utf8_with_broken_bytes_is_not_taken_for_windows(tmp_path: Path) -> None:
    """A damaged file would become a table of wrong words."""
    broken = "image,hair,x\na,grün,1\n".encode() + b"b,r\xf6d,0\n"
    with pytest.raises(InputError, match="cannot be read"):
        read(tmp_path, broken)
    assert decoded(read(tmp_path, broken, tasks=["x"])) == {"x": ["1", "0"]}


def tar_bytes(folder: Path) -> bytes:
    with tarfile.open(folder / "made.tar", "w") as tar:
        tar.add(__file__, "labels.csv")
    return (folder / "made.tar").read_bytes()


def feather_bytes(folder: Path) -> bytes:
    pyarrow.feather.write_feather(pa.table({"image": ["a"], "x": [1]}), folder / "made.feather")
    return (folder / "made.feather").read_bytes()


# Reports: "UnicodeDecodeError", "invalid column": a file of another kind under any name
FOREIGN = {
    "labels.jsonl": (lambda _: b'{"image": "a", "x": 1}\n', "Got JSON lines", "lines=True).to_csv"),
    "lists.jsonl": (
        lambda _: b'{"image": "a", "x": [1]}\n{"image": "b", "x": []}\n',
        "Got JSON lines",
        "lines=True).to_csv",
    ),
    "labels.json": (lambda _: b'[\n {"image": "a"}]', "Got JSON.", "pd.read_json('"),
    "coco.json": (lambda _: b'{"images": [{"id": 1}], "annotations": []}', "Got a JSON object", "a row per image"),
    "indented.json": (lambda _: b'{\n  "images": []\n}\n', "Got a JSON object", "a row per image"),
    "labels.xlsx": (lambda _: b"PK\x03\x04rest", "an Excel workbook", "Save the sheet as CSV"),
    "renamed.csv": (lambda _: b"PK\x03\x04..[Content_Types].xml", "an Excel workbook", "Save the sheet as CSV"),
    "labels.xls": (lambda _: b"\xd0\xcf\x11\xe0\xa1\xb1", "an old Excel workbook", "Save the sheet as CSV"),
    "labels.ods": (lambda _: b"PK\x03\x04..opendocument.spreadsheet", "OpenDocument", "Save the sheet as CSV"),
    "labels.feather": (feather_bytes, "Feather", "pd.read_feather('"),
    "labels.tar": (tar_bytes, "a tar archive", "Unpack it"),
    "labels.tar.gz": (lambda folder: gzip.compress(tar_bytes(folder)), "a tar archive", "Unpack it"),
    "page.csv": (lambda _: b"<!DOCTYPE html><title>Log in</title>", "a web page", "Download"),
    "lfs.csv": (lambda _: b"version https://git-lfs.github.com/spec/v1\n", "Git LFS", "git lfs pull"),
    "empty.csv": (lambda _: b"", "is empty", "CSV with a header"),
    "nul.csv": (lambda _: "image,x\na,1\n".encode("utf-16-le"), "bytes that are no text", "Save it as UTF-8"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_files_of_other_kinds_are_named_with_the_way_out(tmp_path: Path, name: str) -> None:
    make, what, remedy = FOREIGN[name]
    with pytest.raises(InputError) as caught:
        read(tmp_path, make(tmp_path), name)
    assert str(caught.value).startswith(f"{tmp_path / name} ")
    assert what in str(caught.value)
    assert remedy in str(caught.value)


# Reports: Parquet of Polars, DuckDB, fastparquet and pandas' nullable types
WORDS = pa.array(["cat", None, "dog"])
PARQUET_COLUMNS = {
    **{str(kind): WORDS.cast(kind) for kind in (pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary())},
    "binary_view": WORDS.cast(pa.binary()).cast(pa.binary_view()),
    "dictionary": WORDS.dictionary_encode(),
    "large dictionary": WORDS.cast(pa.large_string()).dictionary_encode(),
}


@pytest.mark.parametrize("kind", PARQUET_COLUMNS)
def test_words_of_any_parquet_type(tmp_path: Path, kind: str) -> None:
    table = pa.table({"image": pa.array(list("abc")).cast(pa.string_view()), "x": PARQUET_COLUMNS[kind]})
    assert decoded(read(tmp_path, table, "labels.PARQUET")) == {"x": ["cat", None, "dog"]}
    assert decoded(read(tmp_path, table, "labels.pq")) == {"x": ["cat", None, "dog"]}


@pytest.mark.parametrize("kind", [pa.int8(), pa.uint64(), pa.float32(), pa.decimal128(20, 0), pa.decimal128(24, 2)])
def test_numbers_of_any_parquet_type(tmp_path: Path, kind: pa.DataType) -> None:
    table = pa.table({"image": list("abc"), "x": pa.array([10, None, 9]).cast(pa.int64()).cast(kind, safe=False)})
    assert decoded(read(tmp_path, table, "labels.parquet")) == {"x": ["10", None, "9"]}


def test_lists_in_parquet_are_refused_with_the_way_out(tmp_path: Path) -> None:
    table = pa.table({"image": ["a"], "x": [[1, 2]]})
    with pytest.raises(InputError, match="Give each value a column of its own"):
        read(tmp_path, table, "labels.parquet")


# Reports: multi-label tables with all labels of an image in one cell
@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (["a|b", "a", "c", "a|c"], 3),
        (['"a, b"', '"a, c"', '"b, c"', "a", "b", "c"], 3),
        (["a;b", "b;a", "a", "b"], 2),
        (["\"['a', 'b']\"", "\"['a', 'c']\"", "\"['a']\"", "\"['b', 'c']\""], 3),
        (['"{a,b}"', "{a}", "{b}"], 2),
        (["a/b", "a", "b"], 2),
        ([" ".join(tags) for size in (1, 2, 3) for tags in combinations("abcd", size)], 4),
    ],
)
def test_several_values_in_a_cell_are_recognised(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], cells: list[str], values: int
) -> None:
    read(tmp_path, column(*cells, *cells))
    said = capsys.readouterr().err
    assert "column `x`: cells seem to hold several values" in said
    assert f"{len(cells)} classes made of {values} values" in said
    assert "--one-vs-rest with --separator" in said


@pytest.mark.parametrize(
    "cells",
    [
        ['"Paris, France"', '"Lyon, France"', '"Rome, Italy"'],
        ['"brown, dark"', '"brown, light"', "black"],
        ["light red", "dark red", "red", "light blue", "dark blue", "blue"],
        ["animal/cat", "animal/dog", "plant/fern"],
        ["a", "b"],
    ],
)
def test_words_with_commas_blanks_and_slashes_are_no_list(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], cells: list[str]
) -> None:
    read(tmp_path, column(*cells))
    assert "several values" not in capsys.readouterr().err


# Report: a European Excel's fractions became classes
@pytest.mark.parametrize("text", ["image;x\na;1,5\nb;2,0\nc;-1,2\n", 'image,x\na,"1,2"\nb,"1, 3"\nc,"3,1"\n'])
def test_numbers_with_commas_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    read(tmp_path, text)
    said = capsys.readouterr().err
    assert "column `x`: cells as `" in said
    assert "are words here, not numbers. If they are fractions, they cannot be labels" in said


def test_numbers_beside_several_numbers_are_refused_with_both_reasons(tmp_path: Path) -> None:
    for cell, reason in (("1|2", "several values separated by `|`"), ('"1,2"', "are words here, not numbers")):
        with pytest.raises(InputError, match="all numbers or all words") as caught:
            read(tmp_path, column(cell, "1", "2"))
        assert reason in str(caught.value)


# Report: an export that was cut off behind its header
@pytest.mark.parametrize("text", ["image,x", "image,x\n", "image,x\r\n\r\n", "image"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_header_alone_is_no_table(tmp_path: Path, text: str, encoding: str) -> None:
    with pytest.raises(InputError, match=r"has no row beside its header|has no label column"):
        read(tmp_path, text.encode(encoding))


# Reports: how spreadsheets, dumps and scripts spell a table
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("image,x\ra,1\rb,0\r", ["1", "0"]),  # line ends of an old Mac
        ("image,x\na,1\n\n\nb,0", ["1", "0"]),  # empty lines, no line end at the end
        ('image,x\na,"say ""hi"""\nb,5" screen\n', ['say "hi"', '5" screen']),
        ("image,x\na,1e3\nb,2E+3\n", ["1000", "2000"]),
        ("\ufeff\ufeffimage,x\na,1\nb,0\n", ["1", "0"]),  # two byte order marks: saved twice
        ("\ufeffsep=;\nimage;x\na;1\nb;0\n", ["1", "0"]),
    ],
)
def test_spellings_of_a_table(tmp_path: Path, text: str, expected: list[str]) -> None:
    assert decoded(read(tmp_path, text)) == {"x": expected}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("My survey,,\nimage,x,y\na,1,0\n", "It has: My survey, one without a name"),
        ("Image,x\na,1\n", "Did you mean `Image`?"),
        ("image,x\na,1,\nb,0,\n", "Expected 2 columns, got 3"),
        ("image,x\na,1\nimage,x\nb,0\n", "all numbers or all words. Got 0, 1 and x"),
        ("image,x\na,1\nb,?\nc,0\n", "all numbers or all words. Got 0, 1 and ?"),
    ],
)
def test_tables_that_cannot_be_read_say_why(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        read(tmp_path, text)
    assert message in str(caught.value)


def test_a_column_of_ids_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    read(tmp_path, column(*(f"id{i}" for i in range(40))), tasks=["x"])
    assert "column `x`: all 40 labels differ. Is it a name or an id?" in capsys.readouterr().err


def test_classes_of_an_older_set_keep_their_names(tmp_path: Path) -> None:
    """Sets written before cells were trimmed have classes with blanks, and words that now mean missing."""
    (tmp_path / "labels.csv").write_text("image, x\na,NA\nb,yes \nc, NA\nd,\n")
    known = [Task(name=" x", classes=("NA", "yes "))]
    found = read_labels(str(tmp_path / "labels.csv"), ColumnRoles(), tmp_path, known)
    assert found.matrix[:, 0].tolist() == [0, 1, 0, -1]


def test_relabelling_reads_cells_alike(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = write_images(tmp_path / "images", 4)
    (tmp_path / "labels.csv").write_text(
        "image,x\n" + "".join(f"{n},{w}\n" for n, w in zip(names, "abab", strict=True))
    )
    assert matl_data(shard_arguments(tmp_path, tmp_path / "set", "--workers", "1")) == 0
    (tmp_path / "new.csv").write_text(f"Unnamed: 0;image; x\n0;{names[0]}; b \n1;{names[1]};NA\n")
    relabel_tasks(str(tmp_path / "set"), str(tmp_path / "new.csv"), ColumnRoles())
    said = capsys.readouterr().err
    assert "new.csv: left out column 1 (`Unnamed: 0`): it numbers the rows" in said
    assert "new.csv: taken as missing labels: 1 `NA` in `x`" in said
    manifest = read_manifest(tmp_path / "set")
    labels = dict(zip(manifest.samples["path"].to_pylist(), manifest.labels()[:, 0].tolist(), strict=True))
    assert [labels[name] for name in names] == [1, -1, 0, 1]


def test_tags_left_out_as_an_identifier_are_recognised(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Stands for "my column of tags was left out": every combination is a class, so there are nearly as many as images."""
    rows = "".join(f"{i},{i % 2},t{i % 9}|t{i // 9}|t{i % 7}\n" for i in range(60))
    assert list(decoded(read(tmp_path, f"image,x,tags\n{rows}"))) == ["x"]
    lines = capsys.readouterr().err
    assert "left out `tags`: so many different values" in lines
    assert "cells seem to hold several values separated by `|`" in lines
