"""Files that appear whole or not at all: written under another name, synced to disk, then renamed."""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import socket
import tempfile
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


_held_locks: set[TextIO] = set()


def _leave_locks_to_the_parent() -> None:
    """Closes lock files in a forked child, which would hold the locks beyond its parent's end."""
    while _held_locks:
        _held_locks.pop().close()


os.register_at_fork(after_in_child=_leave_locks_to_the_parent)


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
            file.write(describe_process())
            file.flush()
            _held_locks.add(file)
            try:
                yield
            finally:
                _held_locks.discard(file)
            return


def describe_process() -> str:
    """Returns what others are told of this process when they meet its lock."""
    job = os.environ.get("SLURM_JOB_ID")
    return f"{os.getpid()} on {socket.gethostname()}" + (f" (Slurm job {job})" if job else "")


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


def check_writable(option: str, path: Path) -> None:
    """Raises `InputError` if a file cannot be written, before the work whose result it is to hold.

    Args:
        option: What asks for it, as `--out`.
        path: Of the file.
    """
    folder = path.parent
    if path.is_dir():
        raise InputError(f"`{option}` should be a file. {path} is a folder.")
    if not folder.is_dir():
        raise InputError(f"`{option}` {path} cannot be written: there is no folder {folder}. Make it first.")
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=f".partial-{path.name}-"):
            pass
    except OSError as error:
        raise InputError(f"`{option}` {path} cannot be written: {error.strerror}. Choose another folder.") from error


REMEDIES = {
    errno.ENOSPC: "Free some space, then start again.",
    errno.EDQUOT: "Free some of your quota, then start again.",
    errno.EROFS: "Choose a folder that can be written.",
    errno.EACCES: "Choose a folder that you may write, or change its permissions.",
    errno.EPERM: "Choose a folder that you may write, or change its permissions.",
    errno.EIO: "The disk or the network file system fails; look at the system's log.",
    errno.ESTALE: "The network file system was mounted anew; start again.",
}


def explain_os_error(error: OSError) -> str | None:
    """Returns what is wrong with a disk or a permission, and what to do; None for errors of any other kind."""
    remedy = REMEDIES.get(error.errno or 0)
    if remedy is None:
        return None
    place = f"{os.fsdecode(error.filename)}: " if error.filename is not None else ""
    return f"{place}{error.strerror}. {remedy}"


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
