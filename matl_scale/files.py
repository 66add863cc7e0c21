"""Files that appear whole or not at all: written under another name, synced to disk, then renamed."""

import contextlib
import fcntl
import hashlib
import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

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
    with (folder / name).open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            file.seek(0)
            raise InputError(
                f"{folder} is in use by process {file.read() or 'unknown'}. Wait for it to end."
            ) from error
        file.truncate(0)
        file.write(f"{os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


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
