"""`matl-data tasks`: new versions of labels, tars untouched, older versions readable; and the checks of a set."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.commands import matl_data, shard_arguments
from helpers.shard_sets import list_changed_table
from helpers.sources_on_disk import contents, write_images, write_labels
from matl_scale.data.shards.manifest import read_manifest

COUNT = 40


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A set of 40 images in train and val, with three binary tasks."""
    write_labels(tmp_path / "labels.csv", write_images(tmp_path / "images", COUNT))
    options = ["--split-fractions", "train=0.7,val=0.3", "--stratify", "--workers", "1", "--shard-mb", "0.02"]
    assert matl_data(shard_arguments(tmp_path, tmp_path / "set", *options)) == 0
    return tmp_path


def label_file(made: Path, columns: dict[str, list[object]], keep: slice = slice(None)) -> str:
    paths = sorted(read_manifest(made / "set").samples["path"].to_pylist())
    path = made / "more.parquet"
    pq.write_table(pa.table({"image": paths[keep], **{name: values[keep] for name, values in columns.items()}}), path)
    return str(path)


def labels_by_path(made: Path, task: str, version: str = "") -> dict[str, int]:
    manifest = read_manifest(made / "set", version)
    column = manifest.labels([manifest.task_names.index(task)])[:, 0]
    return dict(zip(manifest.samples["path"].to_pylist(), column.tolist(), strict=True))


def test_added_tasks_are_a_new_version(made: Path) -> None:
    before, first = contents(made / "set"), read_manifest(made / "set")
    kinds = [["x", "y", None][i % 3] for i in range(COUNT)]
    file = label_file(made, {"kind": kinds, "flag": [i % 2 == 0 for i in range(COUNT)]}, slice(0, 30))
    assert matl_data(["tasks", "add", str(made / "set"), "--labels", file]) == 0
    after, second = contents(made / "set"), read_manifest(made / "set")
    assert all(after[name] == data for name, data in before.items() if name != "manifest.json")
    assert second.task_names == [*first.task_names, "kind", "flag"]
    assert second.version == 2
    assert second.id != first.id
    names = sorted(labels_by_path(made, "t0"))
    expected = {name: -1 if kind is None else "xy".index(kind) for name, kind in zip(names, kinds, strict=True)}
    expected |= dict.fromkeys(names[30:], -1)
    assert labels_by_path(made, "kind") == expected
    np.testing.assert_array_equal(second.labels()[:, :3], first.labels())
    table: dict[str, list[int]] = {}
    for file in {each.file for each in second.label_references}:
        table |= pq.read_table(made / "set" / file).to_pydict()
    order = [4, 0, 3]  # of two files
    groups = list(second.label_groups(order, 7))
    assert [len(group) for group in groups] == [7] * (COUNT // 7) + ([COUNT % 7] if COUNT % 7 else [])
    assert np.concatenate(groups).T.tolist() == [table[second.task_names[i]] for i in order]
    for version in ("1", first.id[:6]):
        old = read_manifest(made / "set", version)
        assert (old.id, old.task_names) == (first.id, first.task_names)
        np.testing.assert_array_equal(old.labels(), first.labels())
    assert matl_data(["verify", str(made / "set"), "--workers", "1"]) == 0


def test_rename_drop_and_relabel(made: Path) -> None:
    first = read_manifest(made / "set")
    assert matl_data(["tasks", "rename", str(made / "set"), "t0= smiling ", "t1=t0"]) == 0
    assert read_manifest(made / "set").task_names == ["smiling", "t0", "t2"]
    assert labels_by_path(made, "smiling") == labels_by_path(made, "t0", "1")
    assert labels_by_path(made, "t0") == labels_by_path(made, "t1", "1")
    before = labels_by_path(made, "t2")
    names = sorted(before)
    values = [None if before[name] < 0 else 1 - before[name] for name in names]
    values[3] = None
    file = label_file(made, {"t2": values}, slice(0, 20))
    assert matl_data(["tasks", "relabel", str(made / "set"), "--labels", file]) == 0
    flipped = {name: -1 if value is None else value for name, value in zip(names[:20], values[:20], strict=True)}
    assert labels_by_path(made, "t2") == before | flipped
    assert matl_data(["tasks", "drop", str(made / "set"), "smi*"]) == 0
    newest = read_manifest(made / "set")
    assert newest.task_names == ["t0", "t2"]
    assert newest.version == 4
    assert [entry["change"].split()[0] for entry in newest.entries] == ["train,", "renamed", "relabelled", "dropped"]
    np.testing.assert_array_equal(read_manifest(made / "set", "1").labels(), first.labels())
    assert matl_data(["verify", str(made / "set"), "--workers", "1"]) == 0


def test_an_equals_sign_in_names(made: Path) -> None:
    for names in (["t0=x", "t1=x=y"], ["x=y=z"]):
        assert matl_data(["tasks", "rename", str(made / "set"), *names]) == 0
    assert read_manifest(made / "set").task_names == ["x", "z", "t2"]


def test_a_split_can_join_after_tasks_were_added(made: Path) -> None:
    file = label_file(made, {"flag": [i % 2 for i in range(COUNT)]})
    matl_data(["tasks", "add", str(made / "set"), "--labels", file])
    (made / "new").mkdir()
    shutil.copy(made / "images/a/0000.png", made / "new/n.png")
    (made / "new.csv").write_text("image,t0,t1,t2,flag\nn.png,1,0,,1\n")
    options = ["--split", "test", "--workers", "1"]
    assert matl_data(shard_arguments(made, made / "set", *options, images="new", labels="new.csv")) == 0
    newest = read_manifest(made / "set")
    assert newest.splits["test"] == 1
    assert newest.labels()[-1].tolist() == [1, 0, -1, 1]
    assert read_manifest(made / "set", "2").num_samples == COUNT


BAD = {
    "taken name": (["tasks", "add"], {"t1": [0, 1] * 20}, "has the tasks t1 already"),
    "unknown task": (["tasks", "relabel"], {"t9": [0, 1] * 20}, "has no task t9"),
    "unknown class": (["tasks", "relabel"], {"t1": [0, 7] * 20}, "the shard set has no class 7"),
    "single class": (["tasks", "add"], {"new": [1] * 40}, "at least two classes"),
    "one class is left": (["tasks", "relabel"], {"t2": [1] * 40}, "at least two classes among the images of the set"),
    "val only": (["tasks", "add"], {"new": "val only"}, "in val"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_changes_leave_no_trace(made: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    command, columns, message = BAD[case]
    if case == "val only":
        manifest = read_manifest(made / "set")
        split_of = dict(zip(manifest.samples["path"].to_pylist(), manifest.samples["split"].to_pylist(), strict=True))
        columns = {
            "new": [("c" if split_of[path] == "val" else "ab"[i % 2]) for i, path in enumerate(sorted(split_of))]
        }
    before = contents(made / "set")
    assert matl_data([*command, str(made / "set"), "--labels", label_file(made, columns)]) == 2  # type: ignore[arg-type]
    assert message in capsys.readouterr().err
    assert contents(made / "set") == before


def test_rows_of_unknown_images(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (made / "more.csv").write_text("image,new\na/0000.png,1\na/0002,0\nb/0001.png,0\nelsewhere.png,1\nb/0003.png,1\n")
    command = ["tasks", "add", str(made / "set"), "--labels", str(made / "more.csv")]
    assert matl_data(command) == 2
    assert "names 1 image missing in" in capsys.readouterr().err
    if matl_data([*command, "--allow-unmatched"]) == 0:  # unless the few labels fell into val alone
        assert sum(value >= 0 for value in labels_by_path(made, "new").values()) == 4


@pytest.mark.parametrize("names", [["t9=x"], ["t0=t1"], ["t0=x", "t1=x"], ["t0"]])
def test_bad_names(made: Path, names: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert matl_data(["tasks", "rename", str(made / "set"), *names]) == 2
    assert "should" in capsys.readouterr().err
    assert read_manifest(made / "set").version == 1


def test_unknown_version(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert matl_data(["info", str(made / "set"), "--version", "7"]) == 2
    assert "has no version '7'. It has: 1 (" in capsys.readouterr().err


def damage(root: Path, kind: str) -> str:
    """Damages a set and returns what should be said of it."""
    tar = sorted(root.glob("train-*.tar"))[0]
    data = bytearray(tar.read_bytes())
    if kind == "flipped byte":
        data[512 + 60] ^= 1
        tar.write_bytes(data)
        return "damaged"
    if kind == "size":
        tar.write_bytes(data[:-10240])
        return "bytes. It has"
    if kind == "missing":
        tar.unlink()
        return "is missing"
    if kind == "orphan tar":
        (root / "train-999999.tar").write_bytes(data)
        return "1 tar is not listed in manifest.json: train-999999.tar"
    if kind == "orphan key":
        data[0:9], data[148:156] = b"987654321", b" " * 8
        data[148:156] = b"%06o\0 " % sum(data[:512])
        tar.write_bytes(data)
        return "keys that are not in the manifest: 987654321"
    labels = root / "labels.v1.parquet"
    table = pq.read_table(labels)
    wrong = table.set_column(0, "t0", pa.array([5] * table.num_rows, pa.int8()))
    pq.write_table(wrong, labels)
    if kind == "checksum":
        return "SHA-256 differs"
    list_changed_table(root, "labels")
    return "labels should lie between -1 and 1"


@pytest.mark.parametrize(
    "kind", ["flipped byte", "size", "missing", "orphan tar", "orphan key", "checksum", "label out of range"]
)
def test_verify_names_what_is_wrong(made: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    expected = damage(made / "set", kind)
    assert matl_data(["verify", str(made / "set"), "--workers", "1"]) == 2
    captured = capsys.readouterr()
    assert expected in captured.out + captured.err


def test_info_draws_label_correlations(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert matl_data(["info", str(made / "set"), "--picture", str(made / "pairs.png")]) == 0
    assert (made / "pairs.png").read_bytes().startswith(b"\x89PNG")
    assert "Cramér's V of all pairs" in capsys.readouterr().out
    assert matl_data(["info", str(made / "set"), "--picture", str(made / "pairs.doc")]) == 2


def test_preview_shows_real_samples(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        matl_data(["preview", str(made / "set"), "--task", "t0", "--out", str(made / "page.html"), "--count", "3"]) == 0
    )
    page = (made / "page.html").read_text()
    assert page.count("data:image/png;base64,") == 9  # two classes and those without a label
    assert "http" not in page
    assert matl_data(["preview", str(made / "set"), "--task", "t00"]) == 2
    assert "has no task `t00`. Did you mean" in capsys.readouterr().err
