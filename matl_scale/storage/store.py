"""A folder of files, local or behind an fsspec URL (`s3://`, `gs://`, `memory://`, …). Nothing here runs a command.

Local folders are used directly, with files that appear whole or not at all. Object stores have that by nature.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from matl_scale.errors import InputError
from matl_scale.storage.files import file_sha256, sync_folder, write_atomic


class Store:
    """Where files are, by name.

    Args:
        place: A path or a URL that fsspec knows.

    Raises:
        InputError: fsspec does not know the protocol, or its package is not installed.
    """

    def __init__(self, place: "str | Path | Store") -> None:
        self.url = str(place).rstrip("/") or "/"
        self.local: Path | None = None
        self._fs: tuple[int, Any] | None = None
        if "://" not in self.url:
            self.local = Path(self.url)
        elif "file" in (self.fs.protocol if isinstance(self.fs.protocol, tuple) else (self.fs.protocol,)):
            self.local = Path(self.path)

    @property
    def fs(self) -> Any:
        """fsspec's file system, opened anew in a forked process: those with an event loop do not survive a fork."""
        import fsspec

        if self._fs is None or self._fs[0] != os.getpid():
            try:
                fs, self.path = fsspec.core.url_to_fs(self.url)
            except (ValueError, ImportError, OSError) as error:
                raise InputError(f"{self.url} cannot be opened: {error}.") from error
            self._fs = (os.getpid(), fs)
        return self._fs[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_fs": None}

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> "Store":
        return Store(f"{self.url}/{name}")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turns what file systems of fsspec raise, which has no common class, into an `InputError`."""
        try:
            yield
        except Exception as error:
            text = " ".join(str(error).split())[:300]
            raise InputError(f"{self.url} cannot be used: {type(error).__name__}: {text}.") from error

    def _path(self, name: str) -> str:
        return str(self.local / name) if self.local is not None else f"{self.path}/{name}"

    def exists(self, name: str) -> bool:
        """Returns whether there is a file of that name."""
        if self.local is not None:
            return (self.local / name).is_file()
        with self._errors():
            return bool(self.fs.isfile(self._path(name)))

    def size(self, name: str) -> int:
        """Returns a file's size in bytes."""
        if self.local is not None:
            return (self.local / name).stat().st_size
        with self._errors():
            return int(self.fs.size(self._path(name)))

    def names(self) -> list[str]:
        """Returns the names of the entries of the folder, sorted; none if it is missing."""
        if self.local is not None:
            return sorted(entry.name for entry in self.local.iterdir()) if self.local.is_dir() else []
        with self._errors():
            try:
                entries = self.fs.ls(self.path, detail=False)
            except FileNotFoundError:
                return []
        return sorted(str(entry).rstrip("/").rpartition("/")[2] for entry in entries)

    def open(self, name: str) -> BinaryIO:
        """Opens a file for reading."""
        if self.local is not None:
            return self.local_file(name).open("rb")
        with self._errors():
            return cast(BinaryIO, self.fs.open(self._path(name)))

    def read(self, name: str) -> bytes:
        """Returns a file's content."""
        with self.open(name) as file:
            return file.read()

    def read_whole(self, names: Sequence[str]) -> list[bytes | Exception]:
        """Reads files of a remote store, concurrently where its file system can; failed ones are exceptions."""
        return self.read_ranges(names, [0] * len(names), [None] * len(names))

    def read_ranges(
        self, names: Sequence[str], starts: Sequence[int], ends: Sequence[int | None]
    ) -> list[bytes | Exception]:
        """Reads parts of files of a remote store, concurrently where its file system can; failed ones are exceptions."""
        paths = [self._path(name) for name in names]
        return list(self.fs.cat_ranges(paths, list(starts), list(ends), on_error="return"))

    def local_file(self, name: str) -> Path:
        """Returns the path of a file of a local folder."""
        assert self.local is not None
        return self.local / name

    @contextmanager
    def fetched(self, name: str) -> Iterator[Path]:
        """Gives a file as a local path; a remote one is copied for as long as the context lasts."""
        if self.local is not None:
            yield self.local / name
            return
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / Path(name).name
            with self._errors():
                self.fs.get_file(self._path(name), str(path))
            yield path

    def sha256(self, name: str) -> str:
        """Returns the hex SHA-256 of a file's content."""
        with self.fetched(name) as path:
            return file_sha256(path)

    def write(self, name: str, write: Callable[[Path], object]) -> None:
        """Writes a file that appears whole or not at all, by calling `write` with a local path."""
        if self.local is not None:
            (self.local / name).parent.mkdir(parents=True, exist_ok=True)
            write_atomic(self.local / name, write)
            return
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / Path(name).name
            write(path)
            with self._errors():
                self.fs.put_file(str(path), self._path(name))

    def take(self, path: Path, name: str) -> None:
        """Moves a local file, complete and synced under a temporary name, to its place; beside local folders it is a rename."""
        if self.local is not None:
            os.replace(path, self.local / name)
            sync_folder((self.local / name).parent)
            return
        with self._errors():
            self.fs.put_file(str(path), self._path(name))
        path.unlink()

    def remove(self, name: str) -> None:
        """Removes a file, or a folder with all it holds, if it is there."""
        if self.local is None:
            with self._errors():
                if self.fs.exists(self._path(name)):
                    self.fs.rm(self._path(name), recursive=True)
        elif (self.local / name).is_dir():
            shutil.rmtree(self.local / name)
        else:
            (self.local / name).unlink(missing_ok=True)
