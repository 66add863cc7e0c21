"""Label files: what becomes a class, which labels are missing, and how rows are found by name."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.labels.matrix import ColumnRoles, read_labels
from data_prep.labels.name_index import NameIndex
from helpers.commands import matl_data, shard_arguments
from helpers.sources_on_disk import write_images
from matl_scale.data.shards.manifest import read_manifest
from matl_scale.errors import InputError


def read(tmp_path: Path, lines: list[str], **columns: object):  # type: ignore[no-untyped-def]
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    return read_labels(str(tmp_path / "labels.csv"), ColumnRoles(**columns), tmp_path)  # type: ignore[arg-type]


def test_numbers_booleans_and_words_become_classes(tmp_path: Path) -> None:
    lines = ["image,age,flag,hair,code", "a,10,True,red,007", "b,9.0,false,,7", "c,nan,FALSE,Black,007", "d,,,red,8"]
    found = read(tmp_path, lines, text=["code"])
    assert [(task.name, task.classes) for task in found.tasks] == [
        ("age", ("9", "10")),
        ("flag", ("false", "true")),
        ("hair", ("Black", "red")),
        ("code", ("007", "7", "8")),
    ]
    assert found.matrix.tolist() == [[1, 1, 1, 0], [0, 0, -1, 1], [-1, 0, 0, 0], [-1, -1, 1, 2]]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["image,x", "a,1", "b,yes", "c,0"], "column `x`: labels should be all numbers or all words. Got 0, 1 and yes"),
        (["image,x", "a,1", "b,true"], "all numbers or all words"),
        (["image,x", "a,1.5", "b,1"], "Got fractions"),
        (["image,x", "a,1e999", "b,1"], "Got fractions"),
        (["image,x", "a,"], "no value at all"),
        (["image,x", "a,1", ",0"], "Data row 2 has none"),
        (["image,x", *(f"{i},c{i}" for i in range(65_537))], "at most 65,535 classes"),
        (["image,x,x", "a,1,0"], "column of"),
    ],
)
def test_columns_that_cannot_be_labels(tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(InputError) as caught:
        read(tmp_path, lines, tasks=["x"])
    assert message in str(caught.value)


def test_as_many_classes_as_are_allowed(tmp_path: Path) -> None:
    found = read(tmp_path, ["image,x", *(f"{i},c{i:05d}" for i in range(65_535))], tasks=["x"])
    assert found.tasks[0].num_classes == 65_535
    assert found.matrix.dtype == np.int32
    np.testing.assert_array_equal(found.matrix[:, 0], np.arange(65_535))


def test_types_of_parquet_are_kept(tmp_path: Path) -> None:
    table = pa.table(
        {"image": ["a", "b", "c"], "x": ["1", "two", ""], "y": pa.array([True, None, False]), "z": [3, 1, 2]}
    )
    pq.write_table(table, tmp_path / "labels.parquet")
    found = read_labels(str(tmp_path / "labels.parquet"), ColumnRoles(), tmp_path)
    assert [task.classes for task in found.tasks] == [("1", "two"), ("false", "true"), ("1", "2", "3")]
    assert found.matrix.tolist() == [[0, 1, 2], [1, -1, 0], [-1, 0, 1]]


def test_names_are_found_with_and_without_extension() -> None:
    index = NameIndex(lambda: iter([["a", "b.png"], ["c/d.jpg"]]), "name")
    assert index.find(["a.png", "b.png", "b.jpg", "c/d.jpg", "c/d", "x"]).tolist() == [0, 1, -1, 2, -1, -1]
    with pytest.raises(InputError, match="2 occur more than once: a, b"):
        NameIndex(lambda: iter([["a", "b", "c"], ["b", "a"]]), "name")


def test_more_than_128_classes_survive_the_round_trip(tmp_path: Path) -> None:
    names = write_images(tmp_path / "images", 400)
    (tmp_path / "labels.csv").write_text("\n".join(["image,id", *(f"{name},{i // 2}" for i, name in enumerate(names))]))
    assert matl_data(shard_arguments(tmp_path, tmp_path / "set", "--workers", "1", "--tasks", "id")) == 0
    manifest = read_manifest(tmp_path / "set")
    labels = dict(zip(manifest.samples["path"].to_pylist(), manifest.labels()[:, 0].tolist(), strict=True))
    assert labels == {name: i // 2 for i, name in enumerate(names)}
    assert matl_data(["verify", str(tmp_path / "set"), "--workers", "1"]) == 0


def test_file_names_that_are_no_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = write_images(tmp_path / "images", 4)
    (tmp_path / "images" / names[0]).rename(tmp_path / "images" / "a" / "\udcff.png")
    (tmp_path / "labels.csv").write_bytes(b"image,x\na/\xff.png,1\n" + "".join(f"{n},0\n" for n in names[1:]).encode())
    options = ["--workers", "1", "--allow-unmatched"]
    assert matl_data(shard_arguments(tmp_path, tmp_path / "set", "--workers", "1")) == 2
    said = capsys.readouterr().err
    assert "labels.csv: read as Windows-1252" in said
    assert "1 label rows have no image (a/ÿ.png)" in said
    table = pa.table({"image": ["x", *names[1:]], "y": [1, 0, 1, 0]})
    pq.write_table(table, tmp_path / "labels.parquet")
    assert matl_data(shard_arguments(tmp_path, tmp_path / "set", *options, labels="labels.parquet")) == 0


def test_large_integers_stay_apart(tmp_path: Path) -> None:
    found = read(tmp_path, ["image,x", "a,12345678901234567890", "b,12345678901234567891", "c,3"])
    assert found.tasks[0].classes == ("3", "12345678901234567890", "12345678901234567891")
    table = pa.table({"image": ["a", "b", "c"], "x": pa.array([2, 2**64 - 1, 10], pa.uint64())})
    pq.write_table(table, tmp_path / "labels.parquet")
    found = read_labels(str(tmp_path / "labels.parquet"), ColumnRoles(), tmp_path)
    assert found.tasks[0].classes == ("2", "10", str(2**64 - 1))
    assert found.matrix[:, 0].tolist() == [0, 2, 1]
