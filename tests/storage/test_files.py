"""Files that appear whole or not at all, and the lock on a run's folder."""

import os
import signal
import time
from pathlib import Path

import pytest

from matl_scale import InputError
from matl_scale.storage.files import write_atomic, write_text
from matl_scale.storage.locks import lock_folder


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
