"""The rows of a data set on disk, in order: names, labels and splits, which a plan refers to by row number."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from data_prep.dataset import Chunk, Dataset
from data_prep.labels.array_labels import as_class_indices
from data_prep.labels.name_index import check_repeated, check_unique, hash_names
from data_prep.labels.split_names import check_split_name
from matl_scale.data.images.interface import CHUNK_SIZE
from matl_scale.errors import InputError
from matl_scale.text import escape_name

NAMES_FILE, LABELS_FILE, SPLITS_FILE = PLAN_TABLES = "names.arrow", "labels.bin", "splits.bin"
NAMES_SCHEMA = pa.schema({"name": pa.string(), "source": pa.int64()})


@dataclass(frozen=True, kw_only=True)
class RowTables:
    """The rows of a data set, written to disk in order."""

    folder: Path
    splits: list[str]  # names of the splits, by number
    num_rows: int
    sha256: str  # hash of names, labels and splits


def write_row_tables(dataset: Dataset, folder: Path) -> RowTables:
    """Writes the rows of a data set to `folder`.

    Raises:
        InputError: There is no row, a name occurs twice, a label is no class of its task, or a split has an unusable name.
    """
    digest, splits, hashes = hashlib.sha256(), dict[str, int](), list[np.ndarray]()
    check_unique((task.name for task in dataset.tasks), "task name")
    with (
        (folder / LABELS_FILE).open("wb") as labels_file,
        (folder / SPLITS_FILE).open("wb") as splits_file,
        pa.OSFile(str(folder / NAMES_FILE), "wb") as names_file,
        pa.ipc.new_file(names_file, NAMES_SCHEMA) as names_writer,
    ):
        for chunk in even_chunks(dataset.chunks()):
            check_lengths(chunk)
            for name in dict.fromkeys(chunk.splits):
                splits.setdefault(check_split_name(name), len(splits))
            numbers = np.fromiter((splits[name] for name in chunk.splits), dtype=np.uint8, count=len(chunk.splits))
            labels = as_class_indices(chunk.labels, dataset.tasks, chunk.names, sum(map(len, hashes)))
            digest.update("\0".join(chunk.names).encode("utf-8", "surrogateescape"))
            for file, values in ((labels_file, labels), (splits_file, numbers)):
                digest.update(values.data)
                values.tofile(file)
            names_writer.write(pa.record_batch([as_text(chunk.names), chunk.indices], schema=NAMES_SCHEMA))
            hashes.append(hash_names(chunk.names))
    num_rows = sum(map(len, hashes))
    if not num_rows:
        raise InputError("There should be at least one image with a label row. Got none.")
    name_hashes = np.concatenate(hashes)
    hashes.clear()
    name_hashes.sort()
    if suspects := set(name_hashes[1:][name_hashes[1:] == name_hashes[:-1]].tolist()):
        starts = range(0, num_rows, CHUNK_SIZE)
        chunks = (read_names(folder, np.arange(start, min(start + CHUNK_SIZE, num_rows)))[0] for start in starts)
        check_repeated(suspects, chunks, "image name")
    digest.update(json.dumps(list(splits)).encode())
    return RowTables(folder=folder, splits=list(splits), num_rows=num_rows, sha256=digest.hexdigest())


def check_lengths(chunk: Chunk) -> None:
    """Raises `InputError` if a source yields a chunk whose parts have unequal lengths."""
    if not len(chunk.names) == len(chunk.indices) == len(chunk.splits):
        raise InputError(
            "A chunk should have as many indices and splits as names. "
            f"Got {len(chunk.names)} names, {len(chunk.indices)} indices and {len(chunk.splits)} splits."
        )


def as_text(names: Sequence[str]) -> pa.Array:
    """Returns names as an Arrow array of strings; raises `InputError` for names that are not UTF-8."""
    try:
        texts = pa.array(names, pa.string())
    except UnicodeEncodeError as error:
        raise InputError(
            "Names of images in a shard set should be UTF-8, as labels are found by them. "
            f"{escape_name(str(error.object))} is not: rename it."
        ) from error
    if wrong := [name for name in names if "\0" in name]:
        raise InputError(f"File names should hold no zero byte. Got {wrong[0]!r}.")
    return texts


def even_chunks(chunks: Iterator[Chunk]) -> Iterator[Chunk]:
    """Yields the same samples in chunks of `CHUNK_SIZE`, except for the last one."""
    waiting: list[Chunk] = []
    count = 0
    for chunk in chunks:
        waiting.append(chunk)
        count += len(chunk.names)
        while count >= CHUNK_SIZE:
            joined = join_chunks(waiting)
            yield cut_chunk(joined, 0, CHUNK_SIZE)
            waiting, count = [cut_chunk(joined, CHUNK_SIZE, count)], count - CHUNK_SIZE
    if count:
        yield join_chunks(waiting)


def join_chunks(chunks: Sequence[Chunk]) -> Chunk:
    if len(chunks) == 1:
        return chunks[0]
    return Chunk(
        names=[name for chunk in chunks for name in chunk.names],
        indices=np.concatenate([chunk.indices for chunk in chunks]),
        labels=np.concatenate([chunk.labels for chunk in chunks]),
        splits=[split for chunk in chunks for split in chunk.splits],
    )


def cut_chunk(chunk: Chunk, start: int, stop: int) -> Chunk:
    cut = slice(start, stop)
    return Chunk(names=chunk.names[cut], indices=chunk.indices[cut], labels=chunk.labels[cut], splits=chunk.splits[cut])


def read_names(folder: Path, rows: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Returns the names of some rows, ascending, and the indices to read their images by."""
    names: list[str] = []
    indices = []
    with pa.memory_map(str(folder / NAMES_FILE)) as file:
        reader = pa.ipc.open_file(file)
        for number in np.unique(rows // CHUNK_SIZE).tolist():
            inside = rows[(rows // CHUNK_SIZE) == number].astype(np.int64) - number * CHUNK_SIZE
            batch = reader.get_batch(number).take(pa.array(inside))
            names += batch["name"].to_pylist()
            indices.append(batch["source"].to_numpy())
    return names, np.concatenate(indices) if indices else np.zeros(0, dtype=np.int64)
