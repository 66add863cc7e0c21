"""Locks on folders. The operating system releases a lock when the process that holds it ends, however it ends."""

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
    """Closes the lock files in a forked child, which would otherwise hold the locks after its parent has ended."""
    while _held_locks:
        _held_locks.pop().close()


os.register_at_fork(after_in_child=_leave_locks_to_the_parent)


@contextlib.contextmanager
def lock_folder(folder: Path, name: str = ".lock", wait: bool = False, shared: bool = False) -> Iterator[None]:
    """Holds a lock on a folder by its lock file `name`. Processes may hold a `shared` lock together.

    Raises:
        InputError: Another process holds the lock and `wait` is false, or the file system has no locks.
    """
    while True:
        with (folder / name).open("a+", encoding="utf-8") as file:
            acquire(file, folder, wait, shared)
            if not is_at(file, folder / name):
                continue  # the process that held the lock has removed the file
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
    """Returns how this process is named to others that find its lock."""
    job = os.environ.get("SLURM_JOB_ID")
    return f"{os.getpid()} on {socket.gethostname()}" + (f" (Slurm job {job})" if job else "")


def acquire(file: TextIO, folder: Path, wait: bool, shared: bool) -> None:
    """Acquires the lock of an open lock file; the errors are those of `lock_folder`."""
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
    """Returns whether `path` still leads to an open file."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False
