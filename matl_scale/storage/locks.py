"""Locks on folders, which end with the process that holds them."""

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from matl_scale.errors import InputError

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
