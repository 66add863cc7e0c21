"""The label cache: made by whoever comes first, equal to the tables, and made anew when it is not what it should be."""

import json
import os
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.label_stores import draw_matrix
from helpers.shard_sets import ShardSet
from matl_scale.data.shards.dense_labels import DenseColumns
from matl_scale.data.shards.label_cache import open_cached
from matl_scale.data.shards.manifest import read_manifest
from matl_scale.data.shards.mapped_array import MappedArray
from matl_scale.data.shards.open_labels import open_labels
from matl_scale.errors import InputError
from matl_scale.storage.files import file_sha256
from matl_scale.storage.store import Store

NUM_SAMPLES = 3000
MATRIX = draw_matrix(NUM_SAMPLES)[0]


def write_labels(folder: Path) -> tuple[Store, str]:
    """Writes a file of labels, with two columns that hold none. Returns its folder and its hash."""
    columns: dict[str, pa.Array] = {f"t{i}": pa.array(column) for i, column in enumerate(MATRIX.T)}
    columns["words"] = pa.array(["a"] * NUM_SAMPLES)
    columns["gaps"] = pa.array([None, *range(1, NUM_SAMPLES)])
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.table(columns), folder / "labels.parquet")
    return Store(folder), file_sha256(folder / "labels.parquet")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MATL_CACHE", str(tmp_path / "home"))
    return tmp_path / "home"


def check(root: Store, sha256: str) -> list[str]:
    """Opens the cache, compares it with the table, and returns what the user is told."""
    found, notes = open_cached(root, "labels.parquet", sha256)
    assert found is not None
    assert list(found.columns) == [f"t{i}" for i in range(MATRIX.shape[1])]
    stores, store_of, column_of = found.stores
    for expected, store, column in zip(MATRIX.T, store_of, column_of, strict=True):
        np.testing.assert_array_equal(stores[store].read(column, 0, NUM_SAMPLES), expected)
    return notes


def test_it_is_made_once_beside_the_manifest(tmp_path: Path, home: Path) -> None:
    root, sha256 = write_labels(tmp_path / "set")
    assert check(root, sha256) == []
    (folder,) = [path for path in (tmp_path / "set/.labels").iterdir() if path.is_dir()]
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert check(root, sha256) == []
    assert before == {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert not home.exists()


def test_several_that_come_at_once_make_one(tmp_path: Path) -> None:
    root, sha256 = write_labels(tmp_path / "set")
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(lambda _: check(root, sha256), range(6))) == [[]] * 6


@pytest.mark.parametrize("damage", ["changed", "cut", "removed", "no json", "version", "a file"])
def test_what_is_damaged_is_made_anew(tmp_path: Path, damage: str) -> None:
    root, sha256 = write_labels(tmp_path / "set")
    check(root, sha256)
    (folder,) = [path for path in (tmp_path / "set/.labels").iterdir() if path.is_dir()]
    file, entry = folder / "int8.labels.bin", folder / "cache.json"
    data = file.read_bytes()
    if damage == "changed":
        file.write_bytes(data[:100] + bytes([data[100] ^ 1]) + data[101:])
        os.utime(file, ns=(1, 1))
    elif damage == "cut":
        file.write_bytes(data[:-1])
    elif damage == "removed":
        file.unlink()
    elif damage == "no json":
        entry.write_text("{")
    elif damage == "version":
        entry.write_text(json.dumps(json.loads(entry.read_text()) | {"format_version": 0}))
    else:
        shutil.rmtree(folder)
        folder.write_text("")
    (note,) = check(root, sha256)
    assert (
        note
        == f"the label cache {folder} is {'of another version' if damage == 'version' else 'damaged'}, and was made anew"
    )
    assert check(root, sha256) == []


def test_a_copy_is_hashed_and_kept(tmp_path: Path) -> None:
    root, sha256 = write_labels(tmp_path / "set")
    check(root, sha256)
    shutil.copytree(tmp_path / "set", tmp_path / "copy")
    inode = next((tmp_path / "copy/.labels").glob("*/int8.labels.bin")).stat().st_ino
    assert check(Store(tmp_path / "copy"), sha256) == []
    assert next((tmp_path / "copy/.labels").glob("*/int8.labels.bin")).stat().st_ino == inode


def test_where_the_folder_cannot_be_written(tmp_path: Path, home: Path) -> None:
    root, sha256 = write_labels(tmp_path / "set")
    (tmp_path / "set/.labels").write_text("not a folder")
    (note,) = check(root, sha256)
    assert note.startswith(f"labels of {root} are cached in {home}/labels: {root}/.labels cannot be used (")
    shutil.rmtree(home)
    home.write_text("no folder either")
    found, (note,) = open_cached(root, "labels.parquet", sha256)
    assert found is None
    assert note.startswith(
        f"labels of {root} are read without a cache, by every rank for itself: {root}/.labels cannot be used ("
    )
    assert note.endswith("Let MATL_CACHE name a folder that can be written.")


def test_labels_of_a_remote_set_are_cached_locally(tmp_path: Path, home: Path) -> None:
    local, sha256 = write_labels(tmp_path / "set")
    remote = Store("memory://label-cache-test")
    remote.write_bytes("labels.parquet", local.read("labels.parquet"))
    assert check(remote, sha256) == []
    assert [path.name for path in (home / "labels").iterdir() if path.is_dir()] == [sha256[:32]]
    assert "labels.parquet" in remote.names()
    assert len(remote.names()) == 1


def test_a_pickled_array_is_mapped_not_copied(tmp_path: Path) -> None:
    root, sha256 = write_labels(tmp_path / "set")
    found, _ = open_cached(root, "labels.parquet", sha256)
    assert found is not None
    for store in found.stores.stores:
        assert len(pickle.dumps(store)) < 3000
    dense = found.stores.stores[0]
    assert isinstance(dense, DenseColumns)
    array = pickle.loads(pickle.dumps(dense)).array
    assert isinstance(array, MappedArray)
    np.testing.assert_array_equal(array, dense.array)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(array[1:, 5:9])), array[1:, 5:9])


@pytest.mark.parametrize("is_cached", [True, False])
def test_labels_of_a_version(small_set: ShardSet, tmp_path: Path, home: Path, is_cached: bool) -> None:
    shutil.copytree(small_set.root, tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy/.labels", ignore_errors=True)
    if not is_cached:
        (tmp_path / "copy/.labels").write_text("")
        home.write_text("")
    manifest = read_manifest(tmp_path / "copy")
    for task_ids in (None, [3, 0]):
        opened = open_labels(manifest, task_ids)
        assert (opened.is_shared, len(opened.notes)) == (is_cached, 0 if is_cached else 1)
        expected = manifest.labels(task_ids)
        np.testing.assert_array_equal(opened.labels.at(np.arange(manifest.num_samples)), expected)
        assert opened.labels.dtype == expected.dtype


def test_a_damaged_file_of_labels_is_named(tmp_path: Path) -> None:
    root, sha256 = write_labels(tmp_path / "set")
    (tmp_path / "set/labels.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"labels\.parquet cannot be read as Parquet"):
        open_cached(root, "labels.parquet", sha256)
    assert not list((tmp_path / "set/.labels").glob(".partial*"))
