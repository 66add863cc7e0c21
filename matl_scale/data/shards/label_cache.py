"""The label cache of a shard set: the label columns of a Parquet file as arrays that all processes of a node map into memory."""

import contextlib
import hashlib
import json
import os
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from matl_scale.data.shards.cache_folder import CacheKind
from matl_scale.data.shards.layout import CELLS_AT_ONCE, MISSING
from matl_scale.data.shards.mapped_array import map_array
from matl_scale.data.shards.stored_columns import ARRAYS, StoredColumn, Stores, open_stores, store_column
from matl_scale.data.shards.tables import as_numbers, parquet_errors
from matl_scale.storage.files import write_text
from matl_scale.storage.store import Store

LABELS = CacheKind(what="labels", name="label cache", needed="columns.json")


class CachedColumns(NamedTuple):
    """The columns of a Parquet file of labels, by name, in their stores. Columns that hold no labels are left out."""

    num_samples: int
    columns: dict[str, StoredColumn]
    stores: Stores  # columns are in the order of `columns`


def open_cached(root: Store, file: str, sha256: str) -> tuple[CachedColumns | None, list[str]]:
    """Opens the cache of a set's file of labels, and makes it if there is none or it cannot be used.

    Args:
        root: The set's folder.
        file: Name of the Parquet file.
        sha256: The file's hash, as the manifest has it.

    Returns:
        The columns, None if no folder can be written, and what the user should know, in lines.
    """

    def write(folder: Path) -> None:
        with root.fetched(file) as path:
            write_cache(folder, read_columns(path, f"{root}/{file}"), sha256)

    folder, notes = LABELS.open(root, sha256, write)
    return None if folder is None else map_cache(folder), notes


def write_cache(folder: Path, columns: Iterable[tuple[str, np.ndarray]], sha256: str) -> None:
    """Writes the files of a cache of columns, given with their names, of a file of labels with a hash."""
    LABELS.complete(folder, sha256, write_arrays(folder, columns))


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
