"""Files that appear whole or not at all, local and remote, and locks on folders."""

import os
import pickle
import signal
import time
from pathlib import Path

import pytest

from matl_scale import InputError
from matl_scale.storage.files import write_atomic, write_text
from matl_scale.storage.locks import lock_folder
from matl_scale.storage.ranges import RangeReader
from matl_scale.storage.store import Store


def test_a_write_that_breaks_off_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    write_text(path, "old")

    def broken(partial: Path) -> None:
        partial.write_text("half")
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_atomic(path, broken)
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.txt"]


def test_a_folder_has_one_user_at_a_time(tmp_path: Path) -> None:
    with lock_folder(tmp_path), pytest.raises(InputError, match=r"in use by process \d+ on"), lock_folder(tmp_path):
        pass
    with lock_folder(tmp_path):
        pass


def test_a_lock_ends_with_the_process_that_took_it_whatever_its_children_do(tmp_path: Path) -> None:
    """A killed rank leaves loader processes for some seconds; the run must be able to start again."""
    read_end, write_end = os.pipe()
    holder = os.fork()
    if not holder:
        with lock_folder(tmp_path):
            if not (child := os.fork()):
                time.sleep(60)
            os.write(write_end, f"{child} ".encode())
            time.sleep(60)
    child = int(os.read(read_end, 20))
    with pytest.raises(InputError, match=f"process {holder} on"), lock_folder(tmp_path):
        pass
    os.kill(holder, signal.SIGKILL)
    os.waitpid(holder, 0)
    with lock_folder(tmp_path):
        os.kill(child, signal.SIGKILL)


def test_a_lock_names_its_slurm_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    with lock_folder(tmp_path), pytest.raises(InputError, match=r"\(Slurm job 42\)"), lock_folder(tmp_path):
        pass


@pytest.mark.parametrize("url", ["{tmp_path}/set", "file://{tmp_path}/set", "memory://bucket/set"])
def test_local_and_remote_stores_behave_alike(url: str, tmp_path: Path) -> None:
    store = Store(url.format(tmp_path=tmp_path))
    assert store.names() == []
    store.remove("nothing")
    store.write_bytes("a.bin", b"0123456789")
    store.write("folder/b.txt", lambda path: path.write_text("b"))
    (tmp_path / "c.bin").write_bytes(b"c")
    if store.local is not None:
        (tmp_path / "c.bin").rename(store.local / "unfinished")
        store.publish(store.local / "unfinished", "c.bin")
    else:
        store.publish(tmp_path / "c.bin", "c.bin")
    assert store.names() == ["a.bin", "c.bin", "folder"]
    assert (store.exists("folder/b.txt"), store.exists("folder"), store.exists("x")) == (True, False, False)
    assert (store.size("a.bin"), store.read("folder/b.txt")) == (10, b"b")
    assert store.read_all(["c.bin", "a.bin"]) == [b"c", b"0123456789"]
    copy = pickle.loads(pickle.dumps(RangeReader(store)))
    *found, missing = copy.read(["a.bin", "c.bin", "a.bin", "x"], [2, 0, 8, 0], [3, 1, 5, 1])
    assert found == [b"234", b"c", b"89"]
    assert isinstance(missing, FileNotFoundError)
    store.remove("folder")
    store.remove("a.bin")
    assert Store(store).names() == ["c.bin"]
    store.remove("c.bin")
