"""Sharding in parallel, in parts, killed and repeated: the same bytes, whatever happened."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import fsspec
import numpy as np
import pytest

from data_prep.labels.matrix import ColumnRoles
from data_prep.planning.make_plan import Options
from data_prep.shard_set import write_shard_set
from data_prep.sources import labelled
from helpers.commands import matl_data, shard_arguments
from helpers.sources_on_disk import contents, write_images, write_labels
from matl_scale.data.shards.manifest import read_manifest
from matl_scale.data.shards.reader import SampleReader
from matl_scale.errors import InputError
from matl_scale.storage.store import Store

COUNT = 120


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("source")
    write_labels(root / "labels.csv", write_images(root / "images", COUNT))
    return root


@pytest.fixture(scope="module")
def expected(source: Path) -> dict[str, bytes]:
    """The set as one process writes it."""
    assert matl_data(command(source, source / "expected", "--workers", "1")) == 0
    return contents(source / "expected")


def command(source: Path, out: Path | str, *options: str) -> list[str]:
    return shard_arguments(source, out, "--split-fractions", "train=0.7,val=0.3", "--shard-mb", "0.02", *options)


def test_the_set_is_what_went_in(source: Path, expected: dict[str, bytes]) -> None:
    manifest = read_manifest(source / "expected")
    assert manifest.shards.num_rows > 10
    paths = manifest.samples["path"].to_pylist()
    assert sorted(paths) == sorted(path.relative_to(source / "images").as_posix() for path in source.rglob("*/*.png"))
    images = SampleReader(manifest).read(np.arange(COUNT))
    assert images == [(source / "images" / path).read_bytes() for path in paths]
    keys = manifest.samples["key"].to_pylist()
    assert keys == [f"{i:09d}" for i in range(COUNT)]
    assert set(expected) == {path.name for path in (source / "expected").iterdir()}


def test_two_workers_write_the_same_bytes(source: Path, expected: dict[str, bytes], tmp_path: Path) -> None:
    assert matl_data(command(source, tmp_path / "set", "--workers", "2")) == 0
    assert contents(tmp_path / "set") == expected


def test_parts_make_the_same_set(
    source: Path, expected: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "set"
    for part in (3, 1):
        assert matl_data(command(source, out, "--workers", "1", "--partition", f"{part}/3")) == 0
    assert matl_data(["merge", str(out)]) == 2
    assert "has gaps: " in capsys.readouterr().err
    with pytest.raises(InputError, match="unfinished work"):
        read_manifest(out)
    assert matl_data(command(source, out, "--workers", "1", "--partition", "2/3")) == 0
    assert matl_data(["merge", str(out)]) == 0
    assert contents(out) == expected
    assert matl_data(["merge", str(out)]) == 0
    assert contents(out) == expected


@pytest.mark.parametrize("text", ["0/2", "3/2", "x", "1/0"])
def test_partitions_that_cannot_be(source: Path, tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert matl_data(command(source, tmp_path / "set", "--partition", text)) == 2
    assert "should be I/N with I from 1 to N" in capsys.readouterr().err


def test_merge_without_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert matl_data(["merge", str(tmp_path / "nothing")]) == 2
    assert "has no work to merge" in capsys.readouterr().err


def test_finished_shards_are_kept_and_checked(
    source: Path, expected: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "set"
    for part in (1, 2):
        matl_data(command(source, out, "--workers", "1", "--partition", f"{part}/3"))
    tars = sorted(out.glob("*.tar"))
    times = {path: path.stat().st_mtime_ns for path in tars}
    data = bytearray(tars[0].read_bytes())
    data[700] ^= 1
    tars[0].write_bytes(data)  # a finished shard that is damaged
    tars[1].unlink()  # and one that is gone
    capsys.readouterr()
    assert matl_data(command(source, out, "--workers", "1")) == 0
    assert f"{len(tars) - 2} of {len(tars) + len(tars) // 2} shards were finished already" in capsys.readouterr().err
    assert contents(out) == expected
    assert all(path.stat().st_mtime_ns == times[path] for path in tars[2:])


def test_work_of_another_call_is_refused(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "set"
    matl_data(command(source, out, "--workers", "1", "--partition", "1/3"))
    before = contents(out)
    capsys.readouterr()
    assert matl_data(command(source, out, "--workers", "1", "--seed", "5")) == 2
    assert "finished shards of a call with other images, labels or options" in capsys.readouterr().err
    after = contents(out)
    assert {name: after[name] for name in before if not name.endswith(".lock")} == {
        name: data for name, data in before.items() if not name.endswith(".lock")
    }


def test_urls_write_the_same_bytes(source: Path, expected: dict[str, bytes], tmp_path: Path) -> None:
    remote = fsspec.filesystem("memory")
    remote.put(f"{source}/images/", "/bucket/images/", recursive=True)
    remote.put(f"{source}/labels.csv", "/bucket/labels.csv")
    arguments = ["shard", "--images", "memory://bucket/images", "--labels", "memory://bucket/labels.csv"]
    arguments += ["--split-fractions", "train=0.7,val=0.3", "--shard-mb", "0.02", "--workers", "1"]
    assert matl_data([*arguments, "--out", "memory://bucket/set"]) == 0
    tars = {name: data for name, data in expected.items() if name.endswith((".tar", "labels.v1.parquet"))}
    for name, data in tars.items():
        assert remote.cat(f"/bucket/set/{name}") == data, name
    assert sorted(path.rpartition("/")[2] for path in remote.ls("/bucket/set", detail=False)) == sorted(expected)
    manifest = read_manifest("memory://bucket/set")
    assert manifest.labels().tolist() == read_manifest(source / "expected").labels().tolist()
    assert matl_data(["verify", "memory://bucket/set", "--workers", "1"]) == 0
    assert matl_data(command(source, f"file://{tmp_path}/set", "--workers", "2")) == 0
    assert {name: data for name, data in contents(tmp_path / "set").items() if name.endswith(".tar")} == {
        name: data for name, data in expected.items() if name.endswith(".tar")
    }
    remote.rm("/bucket", recursive=True)


def test_an_unknown_protocol_is_named(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert matl_data(command(source, Path("x"), "--out", "nosuch://bucket/set")) == 2
    assert "nosuch://bucket/set cannot be opened" in capsys.readouterr().err


def kill_and_repeat(source: Path, expected: dict[str, bytes], out: Path, delay_s: float) -> bool:
    """Starts sharding in a process group, kills all of it after a while, and repeats the call. Returns whether it was cut."""
    arguments = [sys.executable, "-m", "data_prep", *command(source, out, "--workers", "2")]
    process = subprocess.Popen(arguments, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True)
    time.sleep(delay_s)
    was_running = process.poll() is None
    if was_running:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert matl_data(command(source, out, "--workers", "1")) == 0
    assert contents(out) == expected
    return was_running


def test_killed_once_and_repeated(source: Path, expected: dict[str, bytes], tmp_path: Path) -> None:
    kill_and_repeat(source, expected, tmp_path / "set", 1.2)


@pytest.mark.slow
def test_killed_at_twenty_random_moments(tmp_path: Path) -> None:
    big = tmp_path / "source"
    write_labels(big / "labels.csv", write_images(big / "images", 3000))
    start = time.monotonic()
    arguments = [sys.executable, "-m", "data_prep", *command(big, tmp_path / "expected", "--workers", "2")]
    subprocess.run(arguments, check=True, stderr=subprocess.DEVNULL)
    whole_s = time.monotonic() - start
    expected = contents(tmp_path / "expected")
    generator = random.Random(0)
    cut = [
        kill_and_repeat(big, expected, tmp_path / f"set{i}", generator.uniform(0.1, 1.0) * whole_s) for i in range(20)
    ]
    assert sum(cut) >= 10


def test_no_space_left_is_one_line(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from data_prep.writing.tar import TarWriter

    write = TarWriter._write
    written = 0

    def full(self: TarWriter, data: bytes) -> None:
        nonlocal written
        written += len(data)
        if written > 60_000:
            raise OSError(28, "No space left on device")
        write(self, data)

    monkeypatch.setattr(TarWriter, "_write", full)
    columns = ColumnRoles()

    def write_set() -> None:
        write_shard_set(
            lambda scratch: labelled.build(str(source / "images"), str(source / "labels.csv"), columns, scratch),
            tmp_path / "set",
            Options(shard_mb=0.02),
        )

    with pytest.raises(InputError, match=r"No space left on device.*run the same command again"):
        write_set()
    assert not list((tmp_path / "set").rglob("scratch-*"))
    monkeypatch.undo()
    write_set()
    assert read_manifest(tmp_path / "set").num_samples == COUNT


def test_a_plan_of_another_call_is_replaced_whole(
    source: Path, expected: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the tables of a new plan and its file, the next call must not take them for the old plan's."""
    from data_prep import shard_set

    out = tmp_path / "set"
    assert matl_data(command(source, out, "--workers", "1", "--partition", "1/99")) == 0
    for path in [*(out / ".work").glob("*.parquet"), *out.glob("*.tar")]:
        path.unlink()  # as if the first call had been killed before its first shard

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shard_set, "write_plan", killed)
        assert matl_data(command(source, out, "--workers", "1", "--seed", "9")) == 130
    assert matl_data(command(source, out, "--workers", "1")) == 0
    assert contents(out) == expected


def test_an_array_job_does_not_replace_anothers_plan(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "set"
    assert matl_data(command(source, out, "--workers", "1", "--partition", "99/99")) == 0  # has no shard to write
    assert matl_data(command(source, out, "--workers", "1", "--seed", "9", "--partition", "1/2")) == 2
    assert "of a call with other images, labels or options" in capsys.readouterr().err


def test_a_call_killed_after_the_manifest_leaves_nothing(
    source: Path, expected: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "set"
    remove = Store.remove

    def killed(self: Store, name: str) -> None:
        if name == ".work" and (out / "manifest.json").exists():
            raise KeyboardInterrupt
        remove(self, name)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "remove", killed)
        assert matl_data(command(source, out, "--workers", "1")) == 130
    assert (out / "manifest.json").exists()
    assert matl_data(command(source, out, "--workers", "1")) == 0
    assert contents(out) == expected


def test_a_remote_call_keeps_the_first_cuts(tmp_path: Path) -> None:
    remote = fsspec.filesystem("memory")
    names = write_images(tmp_path / "images", 40)
    write_labels(tmp_path / "labels.csv", names)
    whole = {name: (tmp_path / "images" / name).read_bytes() for name in names[:10]}
    for name in whole:
        (tmp_path / "images" / name).write_bytes(b"")
    arguments = shard_arguments(tmp_path, "memory://cuts/set", "--shard-mb", "0.01", "--workers", "1")
    assert matl_data(arguments) == 2
    for name, data in whole.items():
        (tmp_path / "images" / name).write_bytes(data)
    assert matl_data(arguments) == 0
    assert sorted(read_manifest("memory://cuts/set").samples["path"].to_pylist()) == sorted(names)
    assert matl_data(["verify", "memory://cuts/set", "--workers", "1"]) == 0
    remote.rm("/cuts", recursive=True)
