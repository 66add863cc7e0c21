"""The folder `.work` inside a shard set's folder: unfinished work, its locks, and what killed calls have left there.

Locks are those of the local file system; remote stores have none, and their unfinished files are local.
"""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from data_prep.planning.plan import DROPPED_FILE, PLAN_FILE
from matl_scale.data.shards.layout import WORK
from matl_scale.errors import InputError, explain_os_error
from matl_scale.storage.locks import lock_folder
from matl_scale.storage.store import Store


@contextlib.contextmanager
def locked_scratch(out: Store, partition: tuple[int, int] | None = None) -> Iterator[Path]:
    """Locks the work in `out` and provides a folder for unfinished files, which is removed in the end. The parts of an array job
    share the work.

    Raises:
        InputError: Another call works on the set, or the folder cannot be used.
    """
    if out.local is None:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
        return
    is_new = not out.local.exists()
    work = out.local / WORK
    try:
        with contextlib.ExitStack() as stack:
            while True:
                work.mkdir(parents=True, exist_ok=True)
                with contextlib.suppress(FileNotFoundError):  # another call has just removed it
                    stack.enter_context(lock_folder(work, shared=partition is not None))
                    break
            if partition:
                stack.enter_context(lock_folder(work, f".lock-{partition[0]}-of-{partition[1]}"))
            else:  # no other call works on the set: these folders were left by killed calls
                for path in work.glob("scratch-*"):
                    Store(work).remove(path.name)
            with tempfile.TemporaryDirectory(prefix="scratch-", dir=work) as folder:
                yield Path(folder)
    except OSError as error:
        reason = explain_os_error(error) or f"{error.filename or out}: {error.strerror or error}."
        raise InputError(f"{reason} Run the same command again.") from error
    finally:
        remove_if_empty(out.local, is_new)


def remove_if_empty(root: Path, is_new: bool) -> None:
    """Removes the folder of unfinished work if nothing is begun there and no other call uses it, and an empty new `root`."""
    work = root / WORK
    if work.is_dir() and not (work / PLAN_FILE).exists():
        with contextlib.suppress(InputError), lock_folder(work):
            Store(root).remove(WORK)
    if is_new and root.is_dir() and not any(root.iterdir()):
        root.rmdir()


def finished_shards(out: Store) -> list[str]:
    """Returns the names of the records of finished shards."""
    return [name for name in (out / WORK).names() if name.endswith(".parquet")]


def remove_unused_plan(out: Store) -> None:
    """Removes a plan without any finished shard, so that a call that has failed leaves nothing behind."""
    if not finished_shards(out):
        remove_plan(out)


def remove_plan(out: Store) -> None:
    """Removes a plan, and the list of what was left out by it."""
    for name in (PLAN_FILE, DROPPED_FILE):
        if out.exists(f"{WORK}/{name}"):
            out.remove(f"{WORK}/{name}")
