"""The image files of a folder, local or behind a URL."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from matl_scale.data.images.file_kinds import (
    BROKEN_LINK,
    HIDDEN,
    NO_FILE,
    SOURCES,
    START_BYTES,
    UNREADABLE,
    PassedOver,
    kind_by_content,
    kind_by_name,
    without_images,
)
from matl_scale.data.images.interface import RUN_AGAIN, in_chunks
from matl_scale.errors import InputError
from matl_scale.storage.store import Store

READ_BYTES = 1 << 17
REMOTE_BATCH = 64  # files that are read at once from a store with latency


@dataclass(frozen=True, kw_only=True)
class FolderImages:
    """The image files of a folder by relative path."""

    root: str  # the folder's path or URL

    def names(self, passed_over: PassedOver | None = None) -> Iterator[tuple[list[str], np.ndarray]]:
        """Yields the paths of all image files below the folder, sorted folder by folder; counts other files in `passed_over`."""
        yield from in_chunks(image_names(Store(self.root), PassedOver() if passed_over is None else passed_over))

    def has_image(self) -> bool:
        """Returns whether there is an image; looks no further than to the first one."""
        return next(image_names(Store(self.root), PassedOver()), None) is not None

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


def image_names(store: Store, passed_over: PassedOver) -> Iterator[str]:
    """Yields the relative paths of all image files of a folder, sorted folder by folder, and counts the others."""
    for name, kind in list_files(store) if store.local is None else list_local(store.local, ""):
        if kind in SOURCES and "/" not in name:  # `open_images` has looked into them
            passed_over.add(without_images(kind), name)
        elif kind:
            passed_over.add(kind, name)
        else:
            yield name


def list_files(store: Store) -> Iterator[tuple[str, str]]:
    """Yields what `list_local` does, for a folder behind a URL; the starts of files are read many at once."""
    paths = ["/".join(path) for path in sorted(str(path).split("/") for path in store.fs.find(""))]
    kinds = {name: kind_by_name(name) for name in paths}
    unknown = [name for name, kind in kinds.items() if kind is None]
    for start in range(0, len(unknown), REMOTE_BATCH):
        batch = unknown[start : start + REMOTE_BATCH]
        found = store.read_ranges(batch, [0] * len(batch), [START_BYTES] * len(batch))
        for name, data in zip(batch, found, strict=True):
            kinds[name] = kind_by_content(name, data) if isinstance(data, bytes) else UNREADABLE
    yield from ((name, kind or "") for name, kind in kinds.items())


def list_local(root: Path, prefix: str) -> Iterator[tuple[str, str]]:
    """Yields the relative path of every entry below a folder, and what it is if it is no image, sorted folder by folder. Hidden
    folders are not entered; fsspec, which would do this too, follows no links and lists millions of files before the first.
    """
    with os.scandir(root / prefix) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        name = f"{prefix}{entry.name}"
        if entry.name.startswith("."):
            yield name, HIDDEN
        elif entry.is_dir():
            path = Path(entry.path)
            leads_back = entry.is_symlink() and path.parent.resolve().is_relative_to(path.resolve())
            if not leads_back:
                yield from list_local(root, f"{name}/")
        elif entry.is_file():
            kind = kind_by_name(name)
            yield name, kind_of_file(entry.path) if kind is None else kind
        else:
            yield name, BROKEN_LINK if entry.is_symlink() else NO_FILE


def kind_of_file(path: str) -> str:
    """Returns what a file is by its first bytes: "" for an image."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            return kind_by_content(path, os.read(descriptor, START_BYTES))
        finally:
            os.close(descriptor)
    except OSError:
        return UNREADABLE
