"""A folder of files, local or behind an fsspec URL (`s3://`, `gs://`, `memory://`, …), read and written by name.

A file appears whole or not at all: object stores guarantee that, and local files are synced and then renamed. Nothing here
runs a command.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

import fsspec
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem

from matl_scale.errors import InputError, one_line
from matl_scale.storage.files import file_sha256, sync_to_disk, write_atomic
from matl_scale.storage.locks import lock_folder


class Store:
    """Files by their names in a folder: a path, or a URL that fsspec knows.

    Raises:
        InputError: fsspec does not know the protocol, or its package is not installed.
    """

    def __init__(self, location: "str | Path | Store") -> None:
        self.url = str(location).rstrip("/") or "/"
        self._opened: tuple[int, Any] | None = None
        self.local: Path | None = None
        if "://" not in self.url:
            self.local = Path(self.url)
        elif isinstance(self.fs.fs, LocalFileSystem):
            self.local = Path(self.fs.path)

    @property
    def fs(self) -> Any:
        """The folder as a file system of its own. A forked process opens a new one: event loops do not survive a fork."""
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = (os.getpid(), open_folder(self.url))
        return self._opened[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> "Store":
        return Store(f"{self.url}/{name}")

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Turns the errors of remote file systems, which have no common class, into an `InputError`."""
        try:
            yield
        except Exception as error:
            if self.local is not None and isinstance(error, OSError):
                raise
            raise InputError(f"{self.url} cannot be used: {type(error).__name__}: {one_line(error)}.") from error

    def exists(self, name: str) -> bool:
        """Returns whether there is a file of that name."""
        with self._errors():
            return bool(self.fs.isfile(name))

    def size(self, name: str) -> int:
        """Returns a file's size in bytes."""
        with self._errors():
            return int(self.fs.size(name))

    def names(self) -> list[str]:
        """Returns the names of the folder's entries, sorted; an empty list if there is no folder."""
        with self._errors():
            try:
                return sorted(filter(None, (str(entry).rstrip("/") for entry in self.fs.ls("", detail=False))))
            except FileNotFoundError:
                return []

    def open(self, name: str) -> BinaryIO:
        """Opens a file for reading."""
        with self._errors():
            return cast(BinaryIO, self.fs.open(name))

    def read(self, name: str) -> bytes:
        """Returns a file's content."""
        with self._errors():
            return bytes(self.fs.cat_file(name))

    def read_all(self, names: Sequence[str]) -> list[bytes | Exception]:
        """Reads many small files, concurrently if the file system can; those that cannot be read are exceptions."""
        return self.read_ranges(names, [0] * len(names), [None] * len(names))

    def read_ranges(
        self, names: Sequence[str], starts: Sequence[int], ends: Sequence[int | None]
    ) -> list[bytes | Exception]:
        """Reads a range of bytes of each file, as `read_all` does."""
        paths = [f"{self.fs.path}/{name}" for name in names]  # a DirFileSystem has `cat_ranges` only since 2026
        return list(self.fs.fs.cat_ranges(paths, list(starts), list(ends), on_error="return"))

    def local_file(self, name: str) -> Path:
        """Returns the path of a file in a local folder."""
        assert self.local is not None
        return self.local / name

    @contextlib.contextmanager
    def fetched(self, name: str) -> Iterator[Path]:
        """Provides a file under a local path; a remote file is copied for the duration of the context."""
        if self.local is not None:
            yield self.local / name
            return
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / Path(name).name
            with self._errors():
                self.fs.get_file(name, str(path))
            yield path

    def sha256(self, name: str) -> str:
        """Returns the hex SHA-256 of a file's content."""
        with self.fetched(name) as path:
            return file_sha256(path)

    def write(self, name: str, write: Callable[[Path], object]) -> None:
        """Calls `write` with a temporary local path and publishes the result under `name`."""
        if self.local is not None:
            path = self.local / name
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, write)
            return
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / Path(name).name
            write(path)
            self.publish(path, name)

    def write_bytes(self, name: str, data: bytes) -> None:
        """Writes a file with this content."""
        self.write(name, lambda path: path.write_bytes(data))

    def publish(self, path: Path, name: str) -> None:
        """Moves a local file that is complete and synced to its final name; a rename if the folder is local."""
        if self.local is not None:
            os.replace(path, self.local / name)
            sync_to_disk((self.local / name).parent)
            return
        with self._errors():
            self.fs.put_file(str(path), name)
        path.unlink()

    def remove(self, name: str) -> None:
        """Removes a file, or a folder with its content, if it exists."""
        if self.local is None:
            with self._errors():
                if self.fs.exists(name):
                    self.fs.rm(name, recursive=True)
        elif (self.local / name).is_dir():  # fsspec does not remove links that lead nowhere
            shutil.rmtree(self.local / name)
        else:
            (self.local / name).unlink(missing_ok=True)

    def lock(self, name: str = ".lock", *, wait: bool = False) -> contextlib.AbstractContextManager[None]:
        """Locks a local folder (see `lock_folder`); remote stores have no locks."""
        return lock_folder(self.local, name, wait) if self.local is not None else contextlib.nullcontext()


def open_folder(url: str) -> DirFileSystem:
    """Opens a folder as a file system in which paths are relative to it."""
    if "://" not in url:
        return DirFileSystem(str(Path(url).absolute()), LocalFileSystem())
    try:
        fs, path = fsspec.core.url_to_fs(url)
    except (ValueError, ImportError, OSError) as error:
        raise InputError(f"{url} cannot be opened: {error}.") from error
    return DirFileSystem(path, fs)
