"""Files that appear whole or not at all: written under another name, synced to disk, then renamed."""

import contextlib
import fcntl
import hashlib
import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from matl_scale.errors import InputError


def sync_folder(folder: Path) -> None:
    """Makes renames inside `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_file(path: Path) -> None:
    """Waits until the content of `path` is on disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def write_atomic(path: Path, write: Callable[[Path], object]) -> None:
    """Calls `write` with a temporary path beside `path`, then renames the result to `path`."""
    partial = path.with_name(f".partial-{path.name}")
    try:
        write(partial)
        sync_file(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(path.parent)


def write_json(path: Path, content: Any) -> None:
    """Writes `content` as JSON, atomically, with sorted keys so that equal content gives equal bytes."""
    write_text(path, json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a text file atomically."""

    def write(partial: Path) -> None:
        partial.write_text(text, encoding="utf-8")

    write_atomic(path, write)


@contextlib.contextmanager
def lock_folder(folder: Path, name: str = ".lock", wait: bool = False, shared: bool = False) -> Iterator[None]:
    """Holds a lock on a folder, which the system releases when this process ends in whatever way.

    Args:
        folder: What is locked.
        name: Of the lock's file in it.
        wait: Whether to wait for another process that holds it.
        shared: Whether others that share it may hold it at the same time.

    Raises:
        InputError: Another process holds it, and `wait` is false.
    """
    while True:
        with (folder / name).open("a+", encoding="utf-8") as file:
            take_lock(file, folder, wait, shared)
            if not is_at(file, folder / name):
                continue  # whoever held it has removed it
            file.truncate(0)
            file.write(f"{os.getpid()} on {socket.gethostname()}")
            file.flush()
            yield
            return


def take_lock(file: TextIO, folder: Path, wait: bool, shared: bool) -> None:
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError as error:
        file.seek(0)
        raise InputError(f"{folder} is in use by process {file.read() or 'unknown'}. Wait for it to end.") from error
    except OSError as error:
        raise InputError(
            f"{folder} cannot be locked: {error.strerror}. Its file system should be mounted with locks (Lustre: -o flock)."
        ) from error


def is_at(file: TextIO, path: Path) -> bool:
    """Returns whether an open file is still the one at a path."""
    try:
        found, mine = path.stat(), os.fstat(file.fileno())
    except FileNotFoundError:
        return False
    return (found.st_dev, found.st_ino) == (mine.st_dev, mine.st_ino)


def hash_text(text: str) -> str:
    """Returns the hex SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """Returns the hex SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
