"""Files that appear whole or not at all, and the lock on a run's folder."""

from pathlib import Path

import pytest

from matl_scale import InputError
from matl_scale.files import lock_folder, write_atomic, write_text


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
