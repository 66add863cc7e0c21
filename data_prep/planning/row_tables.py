"""The rows of a data set on disk, in order: names, labels and splits, which a plan then refers to by row number."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from data_prep.dataset import Dataset, Rows
from data_prep.labels.name_index import check_repeated, hash_names
from data_prep.planning.splits import check_split_name
from matl_scale.data.images.interface import CHUNK_ROWS
from matl_scale.data.shards.layout import label_dtype
from matl_scale.errors import InputError

NAMES_FILE, LABELS_FILE, SPLITS_FILE = PLAN_TABLES = "names.arrow", "labels.bin", "splits.bin"
NAMES_SCHEMA = pa.schema({"name": pa.string(), "source": pa.int64()})


@dataclass(frozen=True, kw_only=True)
class Spooled:
    """The rows of a data set, written to disk in order.

    Attributes:
        folder: Where.
        splits: Names of splits, by number.
        num_rows: How many there are.
        sha256: Of names, labels and splits.
    """

    folder: Path
    splits: list[str]
    num_rows: int
    sha256: str


def spool(dataset: Dataset, folder: Path) -> Spooled:
    """Writes the rows of a data set to `folder`.

    Raises:
        InputError: There is no row, a name occurs twice, or a split has a name that cannot be.
    """
    digest, splits, hashes = hashlib.sha256(), dict[str, int](), list[np.ndarray]()
    dtype = label_dtype(dataset.tasks)
    with (
        (folder / LABELS_FILE).open("wb") as labels_file,
        (folder / SPLITS_FILE).open("wb") as splits_file,
        pa.OSFile(str(folder / NAMES_FILE), "wb") as names_file,
        pa.ipc.new_file(names_file, NAMES_SCHEMA) as names_writer,
    ):
        for rows in even_chunks(dataset.rows()):
            for name in dict.fromkeys(rows.splits):
                splits.setdefault(check_split_name(name), len(splits))
            numbers = np.fromiter((splits[name] for name in rows.splits), dtype=np.uint8, count=len(rows.splits))
            labels = np.ascontiguousarray(rows.labels, dtype=dtype)
            digest.update("\0".join(rows.names).encode("utf-8", "surrogateescape"))
            for file, part in ((labels_file, labels), (splits_file, numbers)):
                digest.update(part.data)
                part.tofile(file)
            names_writer.write(pa.record_batch([as_text(rows.names), rows.sources], schema=NAMES_SCHEMA))
            hashes.append(hash_names(rows.names))
    num_rows = sum(map(len, hashes))
    if not num_rows:
        raise InputError("There should be at least one image with a label row. Got none.")
    every = np.concatenate(hashes)
    hashes.clear()
    every.sort()
    check_names(folder, every, num_rows)
    digest.update(json.dumps(list(splits)).encode())
    return Spooled(folder=folder, splits=list(splits), num_rows=num_rows, sha256=digest.hexdigest())


def as_text(names: Sequence[str]) -> pa.Array:
    """Returns names as Arrow's text; raises `InputError` for file names that are no UTF-8."""
    try:
        texts = pa.array(names, pa.string())
    except UnicodeEncodeError as error:
        raise InputError(f"File names should be UTF-8. {error.object!r} is not: rename it.") from error
    if wrong := [name for name in names if "\0" in name]:
        raise InputError(f"File names should hold no zero byte. Got {wrong[0]!r}.")
    return texts


def even_chunks(parts: Iterator[Rows]) -> Iterator[Rows]:
    """Yields the same rows in chunks of `CHUNK_ROWS`, all but the last."""
    waiting: list[Rows] = []
    count = 0
    for part in parts:
        waiting.append(part)
        count += len(part.names)
        while count >= CHUNK_ROWS:
            whole = join_rows(waiting)
            yield cut_rows(whole, 0, CHUNK_ROWS)
            waiting, count = [cut_rows(whole, CHUNK_ROWS, count)], count - CHUNK_ROWS
    if count:
        yield join_rows(waiting)


def join_rows(parts: Sequence[Rows]) -> Rows:
    if len(parts) == 1:
        return parts[0]
    return Rows(
        names=[name for part in parts for name in part.names],
        sources=np.concatenate([part.sources for part in parts]),
        labels=np.concatenate([part.labels for part in parts]),
        splits=[split for part in parts for split in part.splits],
    )


def cut_rows(rows: Rows, start: int, stop: int) -> Rows:
    part = slice(start, stop)
    return Rows(names=rows.names[part], sources=rows.sources[part], labels=rows.labels[part], splits=rows.splits[part])


def read_names(folder: Path, rows: np.ndarray) -> tuple[list[str], np.ndarray]:
    names: list[str] = []
    sources = []
    with pa.memory_map(str(folder / NAMES_FILE)) as file:
        reader = pa.ipc.open_file(file)
        for number in np.unique(rows // CHUNK_ROWS).tolist():
            inside = rows[(rows // CHUNK_ROWS) == number].astype(np.int64) - number * CHUNK_ROWS
            batch = reader.get_batch(number).take(pa.array(inside))
            names += batch["name"].to_pylist()
            sources.append(batch["source"].to_numpy())
    return names, np.concatenate(sources) if sources else np.zeros(0, dtype=np.int64)


def check_names(folder: Path, hashes: np.ndarray, num_rows: int) -> None:
    """Raises `InputError` if a name occurs twice; `hashes` are those of all names, sorted."""
    suspects = set(hashes[1:][hashes[1:] == hashes[:-1]].tolist())
    if suspects:
        starts = range(0, num_rows, CHUNK_ROWS)
        chunks = (read_names(folder, np.arange(start, min(start + CHUNK_ROWS, num_rows)))[0] for start in starts)
        check_repeated(suspects, chunks, "image name")
