"""The image files of a folder, local or behind a URL."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from matl_scale.data.images.interface import RUN_AGAIN, in_chunks
from matl_scale.errors import InputError
from matl_scale.storage.store import Store

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
READ_BYTES = 1 << 17
REMOTE_BATCH = 64  # files that are read at once from a store with latency


@dataclass(frozen=True, kw_only=True)
class FolderImages:
    """The image files of a folder by relative path."""

    root: str  # the folder's path or URL

    def names(self) -> Iterator[tuple[list[str], np.ndarray]]:
        """Yields the paths of all image files below the folder, sorted folder by folder."""
        files = list_files(Store(self.root))
        yield from in_chunks(name for name in files if name.lower().endswith(IMAGE_SUFFIXES))

    def read(self, names: Sequence[str], indices: np.ndarray) -> Iterator[bytes]:  # noqa: ARG002
        store = Store(self.root)
        if store.local is not None:
            for name in names:
                yield read_file(f"{store.local}/{name}")
            return
        for start in range(0, len(names), REMOTE_BATCH):
            batch = names[start : start + REMOTE_BATCH]
            for name, data in zip(batch, store.read_all(batch), strict=True):
                if isinstance(data, bytes):
                    yield data
                elif isinstance(data, FileNotFoundError):
                    yield b""
                else:
                    raise InputError(f"{self.root}/{name} cannot be read: {data}. {RUN_AGAIN}")


def read_file(path: str) -> bytes:
    """Returns a file's content, empty if there is no file. For small files it is faster than a file object.

    Raises:
        InputError: The file exists and cannot be read, which is no reason to leave an image out.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe would wait for a writer
        try:
            return b"".join(iter(lambda: os.read(descriptor, READ_BYTES), b""))
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}. {RUN_AGAIN}") from error


def list_files(store: Store) -> Iterator[str]:
    """Yields the relative paths of all files of a folder except hidden ones, sorted folder by folder."""
    if store.local is not None:
        yield from list_local(store.local, "")  # fsspec follows no links, and lists millions of files before the first
        return
    paths = [str(path).split("/") for path in store.fs.find("")]
    yield from ("/".join(path) for path in sorted(paths) if not any(part.startswith(".") for part in path))


def list_local(root: Path, prefix: str) -> Iterator[str]:
    with os.scandir(root / prefix) as found:
        entries = sorted((entry for entry in found if not entry.name.startswith(".")), key=lambda entry: entry.name)
    for entry in entries:
        if entry.is_dir():
            path = Path(entry.path)
            leads_back = entry.is_symlink() and path.parent.resolve().is_relative_to(path.resolve())
            if not leads_back:
                yield from list_local(root, f"{prefix}{entry.name}/")
        elif entry.is_file():
            yield f"{prefix}{entry.name}"
