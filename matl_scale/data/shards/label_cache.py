"""The label cache of a shard set: the label columns of a Parquet file as arrays that all processes of a node map into memory.

Whoever comes first makes it, beside the manifest, or in a local folder for remote sets and for folders that cannot be written. It
appears whole: files are written to a folder of another name, which is then renamed. It can be deleted at any time.
"""

import contextlib
import hashlib
import json
import os
import shutil
import socket
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from matl_scale.data.shards.layout import CELLS_AT_ONCE, MISSING
from matl_scale.data.shards.mapped_array import map_array
from matl_scale.data.shards.stored_columns import ARRAYS, StoredColumn, Stores, open_stores, store_column
from matl_scale.data.shards.tables import as_numbers, parquet_errors
from matl_scale.errors import InputError
from matl_scale.storage.files import as_json, file_sha256, sync_to_disk, write_text
from matl_scale.storage.locks import lock_folder
from matl_scale.storage.store import Store

BESIDE_MANIFEST = ".labels"
CACHE_VARIABLE = "MATL_CACHE"
CACHE_FILE, CHECKED_FILE = "cache.json", "checked.json"
FORMAT = "matl_scale label cache"
FORMAT_VERSION = 1


class CachedColumns(NamedTuple):
    """The columns of a Parquet file of labels, by name, in their stores. Columns that hold no labels are left out."""

    num_samples: int
    columns: dict[str, StoredColumn]
    stores: Stores  # columns are in the order of `columns`


def find_cache_folders(root: Store) -> list[Path]:
    """Returns the folders in which a set's labels may be cached, the best first."""
    home = (
        os.environ.get(CACHE_VARIABLE)
        or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "matl_scale"
    )
    beside = [] if root.local is None else [root.local / BESIDE_MANIFEST]
    return [*beside, Path(home) / "labels"]


def open_cached(root: Store, file: str, sha256: str) -> tuple[CachedColumns | None, list[str]]:
    """Opens the cache of a set's file of labels, and makes it if there is none or it cannot be used.

    Args:
        root: The set's folder.
        file: Name of the Parquet file.
        sha256: The file's hash, as the manifest has it.

    Returns:
        The columns, None if no folder can be written, and what the user should know, in lines.
    """
    failures: list[str] = []
    for parent in find_cache_folders(root):
        try:
            found, notes = use_cache(parent, root, file, sha256)
        except OSError as error:
            failures.append(f"{parent} cannot be used ({error.strerror or error})")
            continue
        if failures:
            notes.append(f"labels of {root} are cached in {parent}: {failures[0]}")
        return found, notes
    return None, [
        f"labels of {root} are read without a cache, by every rank for itself: {'; '.join(failures)}. Let {CACHE_VARIABLE} "
        "name a folder that can be written."
    ]


def use_cache(parent: Path, root: Store, file: str, sha256: str) -> tuple[CachedColumns, list[str]]:
    """Opens the cache of a file of labels in a folder of caches, and makes it where that has to be.

    Raises:
        OSError: The folder cannot be read, or not be written.
        InputError: The file of labels cannot be read.
    """
    folder, notes = parent / sha256[:32], list[str]()
    if find_fault(folder, sha256) is not None:
        parent.mkdir(parents=True, exist_ok=True)
        with locked(parent):
            fault = find_fault(folder, sha256)  # another process may have made it meanwhile
            if fault is not None:
                make_cache(folder, root, file, sha256)
            if fault:
                notes.append(f"the label cache {folder} {fault}, and was made anew")
    return map_cache(folder), notes


@contextlib.contextmanager
def locked(parent: Path) -> Iterator[None]:
    """Locks a folder of caches. Without locks, two processes may make the same cache, and the later one stays."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(InputError):  # the file system has no locks
            stack.enter_context(lock_folder(parent, wait=True))
        yield


def find_fault(folder: Path, sha256: str) -> str | None:
    """Returns why a cache cannot be used: an empty text if there is none, and None if it can.

    Its files are hashed when their sizes or times are not those of the last check: hashing gigabytes takes seconds.
    """
    if not folder.exists():
        return ""
    try:
        content = json.loads((folder / CACHE_FILE).read_text(encoding="utf-8"))
        if (content["format"], content["format_version"]) != (FORMAT, FORMAT_VERSION):
            return "is of another version"
        hashes: dict[str, str] = content["files"]
        if content["labels"] != sha256 or "columns.json" not in hashes:
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


def describe_files(folder: Path, names: Collection[str]) -> dict[str, list[int]]:
    """Returns size and time of change of files."""
    return {name: [found.st_size, found.st_mtime_ns] for name in names for found in [(folder / name).stat()]}


def make_cache(folder: Path, root: Store, file: str, sha256: str) -> None:
    """Makes the cache of a file of labels, in the place of one that cannot be used."""
    partial = folder.with_name(f".partial-{socket.gethostname()}-{folder.name}")
    shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
    partial.mkdir()
    try:
        with root.fetched(file) as path:
            write_cache(partial, read_columns(path, f"{root}/{file}"), sha256)
        if folder.is_file():
            folder.unlink()
        shutil.rmtree(folder, ignore_errors=True)  # who has mapped it keeps its pages
        os.replace(partial, folder)
        sync_to_disk(folder.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_cache(folder: Path, columns: Iterable[tuple[str, np.ndarray]], sha256: str) -> None:
    """Writes the files of a cache of columns, given with their names, of a file of labels with a hash."""
    hashes = write_arrays(folder, columns)
    content = {"format": FORMAT, "format_version": FORMAT_VERSION, "labels": sha256, "files": hashes}
    write_text(folder / CACHE_FILE, as_json(content))
    write_text(folder / CHECKED_FILE, as_json(describe_files(folder, hashes)))


def write_arrays(folder: Path, named: Iterable[tuple[str, np.ndarray]]) -> dict[str, str]:
    """Writes the arrays of columns, and returns the hash of each file that was written."""
    with contextlib.ExitStack() as stack:
        files: dict[str, BinaryIO] = {}
        digests: dict[str, Any] = {}

        def append(name: str, part: np.ndarray) -> None:
            if name not in files:
                files[name] = stack.enter_context((folder / f"{name}.bin").open("wb"))
                digests[name] = hashlib.sha256()
            data = np.ascontiguousarray(part).view(np.uint8).data
            files[name].write(data)
            digests[name].update(data)

        columns, num_samples = list[list[Any]](), 0
        for name, labels in named:
            num_samples = len(labels)
            columns.append([name, *store_column(labels, append)])
        for opened in files.values():
            opened.flush()
            os.fsync(opened.fileno())
    text = json.dumps({"num_samples": num_samples, "columns": columns}, ensure_ascii=False)
    write_text(folder / "columns.json", text)
    hashes = {f"{name}.bin": digest.hexdigest() for name, digest in digests.items()}
    return {"columns.json": hashlib.sha256(text.encode()).hexdigest(), **hashes}


def read_columns(path: Path, context: str, names: Collection[str] | None = None) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the columns of a Parquet file, or some, that hold labels: whole numbers from −1 on, without gaps.

    Raises:
        InputError: The file cannot be read; the text begins with `context`.
    """
    with parquet_errors(context):
        file = pq.ParquetFile(path)
        wanted = [name for name in file.schema_arrow.names if names is None or name in names]
        step = max(1, CELLS_AT_ONCE // max(file.metadata.num_rows, 1))
        for first in range(0, len(wanted), step):
            table = file.read(columns=wanted[first : first + step])
            yield from (
                (name, as_numbers(table.column(name))) for name in table.column_names if is_fit(table.column(name))
            )


def is_fit(values: pa.ChunkedArray) -> bool:
    """Returns whether a column holds labels."""
    if not pa.types.is_integer(values.type) or values.null_count:
        return False
    labels = as_numbers(values)
    return bool(labels.min(initial=MISSING) >= MISSING and labels.max(initial=MISSING) <= np.iinfo(np.int32).max)


def map_cache(folder: Path) -> CachedColumns:
    """Maps the arrays of a cache that can be used."""
    content = json.loads((folder / "columns.json").read_text(encoding="utf-8"))
    columns = {name: StoredColumn(*values) for name, *values in content["columns"]}

    def read(name: str) -> np.ndarray:
        return map_array(folder / f"{name}.bin", ARRAYS[name])

    stores = open_stores(list(columns.values()), content["num_samples"], read)
    return CachedColumns(content["num_samples"], columns, stores)
