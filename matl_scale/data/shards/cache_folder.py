"""Caches of a shard set: what Parquet files hold, as arrays that all processes of a node map into memory.

Whoever comes first makes a cache, beside the manifest, or in a local folder for remote sets and for folders that cannot be
written. It appears whole: files are written to a folder of another name, which is then renamed. It can be deleted at any time.
"""

import contextlib
import json
import os
import shutil
import socket
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from matl_scale.errors import InputError
from matl_scale.storage.files import as_json, file_sha256, sync_to_disk, write_text
from matl_scale.storage.locks import lock_folder
from matl_scale.storage.store import Store

CACHE_VARIABLE = "MATL_CACHE"
CACHE_FILE, CHECKED_FILE = "cache.json", "checked.json"
FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class CacheKind:
    """A kind of caches."""

    what: str  # what is cached; also how folders are called
    name: str  # what such a cache is called
    needed: str  # a file that every one has

    def open(self, root: Store, sha256: str, write: Callable[[Path], object]) -> tuple[Path | None, list[str]]:
        """Returns the folder of a cache that can be used, after making it where that has to be.

        Args:
            root: The set's folder.
            sha256: Hash of what is cached.
            write: Writes the files of the cache into a folder, and calls `complete`.

        Returns:
            The folder, None if none can be written, and what the user should know, in lines.
        """
        failures: list[str] = []
        for parent in self.find_parents(root):
            try:
                found, notes = self._use(parent, sha256, write)
            except OSError as error:
                failures.append(f"{parent} cannot be used ({error.strerror or error})")
                continue
            if failures:
                notes.append(f"{self.what} of {root} are cached in {parent}: {failures[0]}")
            return found, notes
        return None, [
            f"{self.what} of {root} are read without a cache, by every rank for itself: {'; '.join(failures)}. Let "
            f"{CACHE_VARIABLE} name a folder that can be written."
        ]

    def find_parents(self, root: Store) -> list[Path]:
        """Returns the folders in which such caches of a set may be, the best first."""
        home = (
            os.environ.get(CACHE_VARIABLE)
            or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "matl_scale"
        )
        beside = [] if root.local is None else [root.local / f".{self.what}"]
        return [*beside, Path(home) / self.what]

    def complete(self, folder: Path, sha256: str, hashes: Mapping[str, str]) -> None:
        """Writes what says that the files of a cache, given with their hashes, are all there, for what has the hash `sha256`."""
        content = {"format": self._format, "format_version": FORMAT_VERSION, self.what: sha256, "files": dict(hashes)}
        write_text(folder / CACHE_FILE, as_json(content))
        write_text(folder / CHECKED_FILE, as_json(describe_files(folder, hashes)))

    def find_fault(self, folder: Path, sha256: str) -> str | None:
        """Returns why a cache cannot be used: an empty text if there is none, and None if it can.

        Its files are hashed when their sizes or times are not those of the last check: hashing gigabytes takes seconds.
        """
        if not folder.exists():
            return ""
        try:
            content = json.loads((folder / CACHE_FILE).read_text(encoding="utf-8"))
            if (content["format"], content["format_version"]) != (self._format, FORMAT_VERSION):
                return "is of another version"
            hashes: dict[str, str] = content["files"]
            if content[self.what] != sha256 or self.needed not in hashes:
                return "is damaged"
            seen = describe_files(folder, hashes)
        except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
            return "is damaged"
        with contextlib.suppress(OSError, ValueError):
            if json.loads((folder / CHECKED_FILE).read_text(encoding="utf-8")) == seen:
                return None
        if any(file_sha256(folder / name) != digest for name, digest in hashes.items()):
            return "is damaged"
        with contextlib.suppress(OSError):  # a cache that cannot be written is hashed each time
            write_text(folder / CHECKED_FILE, as_json(seen))
        return None

    @property
    def _format(self) -> str:
        return f"matl_scale {self.name}"

    def _use(self, parent: Path, sha256: str, write: Callable[[Path], object]) -> tuple[Path, list[str]]:
        folder, notes = parent / sha256[:32], list[str]()
        if self.find_fault(folder, sha256) is not None:
            parent.mkdir(parents=True, exist_ok=True)
            with locked(parent) as is_alone:
                fault = self.find_fault(folder, sha256)  # another process may have made it meanwhile
                if fault is not None:
                    make_cache(folder, write, is_alone)
                if fault:
                    notes.append(f"the {self.name} {folder} {fault}, and was made anew")
        return folder, notes


@contextlib.contextmanager
def locked(parent: Path) -> Iterator[bool]:
    """Locks a folder of caches. Yields whether it could: some file systems have no locks."""
    with contextlib.ExitStack() as stack:
        is_alone = False
        with contextlib.suppress(InputError):
            stack.enter_context(lock_folder(parent, wait=True))
            is_alone = True
        yield is_alone


def describe_files(folder: Path, names: Collection[str]) -> dict[str, list[int]]:
    """Returns size and time of change of files."""
    return {name: [found.st_size, found.st_mtime_ns] for name in names for found in [(folder / name).stat()]}


def make_cache(folder: Path, write: Callable[[Path], object], is_alone: bool) -> None:
    """Makes a cache, and replaces one that cannot be used. Without a lock (`is_alone`), other processes may do the same."""
    mine = f".partial-{socket.gethostname()}-"
    if is_alone:
        for abandoned in folder.parent.glob(f"{mine}*-{folder.name}"):  # of processes that were killed
            shutil.rmtree(abandoned, ignore_errors=True)
    partial = folder.with_name(f"{mine}{os.getpid()}-{folder.name}")
    partial.mkdir()
    try:
        write(partial)
        if folder.is_file():
            folder.unlink()
        shutil.rmtree(folder, ignore_errors=True)  # who has mapped it keeps its pages
        try:
            os.replace(partial, folder)
        except OSError:
            if not (folder / CACHE_FILE).is_file():  # else another process was quicker
                raise
        sync_to_disk(folder.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
