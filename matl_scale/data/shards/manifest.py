"""One version of a shard set: its tasks and shards are read when it is opened, samples and labels on request."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from matl_scale.data.shards.label_groups import read_label_groups
from matl_scale.data.shards.layout import (
    CELLS_AT_ONCE,
    DIGESTS_SCHEMA,
    SAMPLES_SCHEMA,
    SHARDS_SCHEMA,
    TASKS_SCHEMA,
    label_dtype,
    split_rank,
)
from matl_scale.data.shards.tables import LabelReference, as_numbers, parquet_errors, read_table
from matl_scale.data.shards.versions import ROLES, check_file, choose_version, is_file_name, read_entries
from matl_scale.errors import InputError, nearest
from matl_scale.storage.files import hash_text
from matl_scale.storage.store import Store
from matl_scale.tasks import Task


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """One version of a complete shard set.

    Attributes:
        root: The folder.
        id: SHA-256 over the tables of this version: equal content has an equal id.
        version: Number of the version, from 1.
        tasks: The tasks, in the order of the label matrix's columns.
        counts: Number of samples of each class, for each task.
        label_references: Where the labels of each task are.
        shards: Table with `SHARDS_SCHEMA`, one row per tar.
        tables: File name of each table, by its role.
        oriented: Number of images that carried an orientation other than upright when they were given; None if the set was
            written before these were counted.
        entries: All versions as `manifest.json` lists them, oldest first.
    """

    root: Store
    id: str
    version: int
    tasks: tuple[Task, ...]
    counts: tuple[np.ndarray, ...]
    label_references: tuple[LabelReference, ...]
    shards: pa.Table
    tables: Mapping[str, str]
    oriented: int | None
    entries: Sequence[Mapping[str, Any]] = field(repr=False)

    @cached_property
    def shard_sizes(self) -> np.ndarray:
        """Number of samples of each shard, shape `(num_shards,)`."""
        return as_numbers(self.shards["samples"])

    @property
    def num_samples(self) -> int:
        return int(self.shard_sizes.sum())

    @cached_property
    def samples(self) -> pa.Table:
        """Table with `SAMPLES_SCHEMA`, one row per image, shard after shard."""
        return self._read("samples", None)

    def sample_columns(self, *names: str) -> pa.Table:
        """Reads some columns of the samples table; the paths of ten million images alone fill a gigabyte."""
        return self._read("samples", list(names))

    def digest_table(self) -> pa.Table:
        """Reads the table with `DIGESTS_SCHEMA`, one row per image."""
        return self._read("digests", None)

    def digests(self) -> np.ndarray:
        """Reads the first 16 bytes of the SHA-256 of each image, shape `(num_samples,)`, dtype V16."""
        name, start = self.tables["digests"], 0
        digests = np.empty(self.num_samples, dtype="V16")
        with self.root.fetched(name) as path, parquet_errors(f"{self.root}/{name}"):
            file = pq.ParquetFile(path)
            if not file.schema_arrow.equals(DIGESTS_SCHEMA) or file.metadata.num_rows != len(digests):
                raise InputError(f"{self.root}/{name} should have one digest per sample. Prepare the set again.")
            for batch in file.iter_batches():
                part = np.frombuffer(batch.column(0).buffers()[1], "V16", len(batch), 16 * batch.column(0).offset)
                digests[start : start + len(part)] = part
                start += len(part)
        return digests

    @property
    def splits(self) -> dict[str, int]:
        """Number of samples per split, in the order train, val, test, then any others by name."""
        sizes: Counter[str] = Counter()
        for split, size in zip(self.shards["split"].to_pylist(), self.shard_sizes.tolist(), strict=True):
            sizes[split] += size
        return {split: sizes[split] for split in sorted(sizes, key=split_rank)}

    @property
    def task_names(self) -> list[str]:
        return [task.name for task in self.tasks]

    def hash_shards(self, split: str) -> str:
        """Returns a hash of what a split reads; if it is equal, the images and their keys are the same."""
        return hash_text("\n".join(shard["sha256"] for shard in self.shards_of(split)))

    def stored_splits(self, split: str) -> Sequence[str]:
        """Returns the splits under which the samples of a split were written."""
        return (split,)

    def shards_of(self, split: str) -> list[dict[str, Any]]:
        """Returns the rows of the shards table that a split reads from."""
        stored = self.stored_splits(split)
        return [shard for shard in self.shards.to_pylist() if shard["split"] in stored]

    def shard_of_samples(self) -> np.ndarray:
        """Returns the index of every sample's shard, shape `(num_samples,)`."""
        return np.repeat(np.arange(len(self.shard_sizes), dtype=np.int32), self.shard_sizes)

    def split_numbers(self) -> np.ndarray:
        """Returns the index of every sample's split in `splits`, shape `(num_samples,)`, uint8."""
        names = list(self.splits)
        numbers = np.array([names.index(name) for name in self.shards["split"].to_pylist()], dtype=np.uint8)
        return np.repeat(numbers, self.shard_sizes)

    def sample_ids(self, split: str) -> np.ndarray:
        """Returns the ids of the samples of a split, ascending.

        Raises:
            InputError: There is no such split.
        """
        if split not in self.splits:
            raise InputError(
                f"{self.root} has no split `{split}`. It has: {', '.join(self.splits)}.{nearest(split, self.splits)} "
                + how_to_get(split)
            )
        return np.flatnonzero(self.split_numbers() == list(self.splits).index(split))

    def labels(self, task_ids: Sequence[int] | None = None) -> np.ndarray:
        """Reads the label matrix of all tasks or of some.

        Returns:
            Shape `(num_samples, num_tasks)`, −1 where there is no label; the column of each task is contiguous.

        Raises:
            InputError: The matrix does not match the samples, or holds a value that is no class of its task.
        """
        ids = list(range(len(self.tasks))) if task_ids is None else list(task_ids)
        matrix = np.empty((self.num_samples, len(ids)), dtype=label_dtype([self.tasks[i] for i in ids]), order="F")
        start = 0
        for rows in self.label_groups(ids, max(1, CELLS_AT_ONCE // max(len(ids), 1))):
            matrix[start : start + len(rows)] = rows
            start += len(rows)
        return matrix

    def label_groups(self, task_ids: Sequence[int], num_rows: int) -> Iterator[np.ndarray]:
        """Yields what `labels` returns in groups of so many rows; the last one may have fewer. Raises as that does."""
        yield from read_label_groups(self.root, self.num_samples, self.tasks, self.label_references, task_ids, num_rows)

    def check_shards(self, split: str) -> None:
        """Compares the tars of a split with the manifest by presence and size, without reading them.

        Raises:
            InputError: A tar is missing or has another size.
        """
        for shard in self.shards_of(split):
            path = f"{self.root}/{shard['file']}"
            if not self.root.exists(shard["file"]):
                raise InputError(f"{path} is listed in the manifest but missing. Prepare the shard set again.")
            size = self.root.size(shard["file"])
            if size != shard["bytes"]:
                raise InputError(
                    f"{path} should have {shard['bytes']} bytes by the manifest. Got {size}. "
                    "The manifest and the tars belong to different sets; prepare the set again."
                )

    def image_size(self) -> int | None:
        """Returns the side length in pixels if all images are squares of one size, else None."""
        table = self.sample_columns("width", "height")
        sides = {side.as_py() for column in table.columns for side in column.unique()}
        return int(sides.pop()) if len(sides) == 1 else None

    def _read(self, role: str, columns: list[str] | None) -> pa.Table:
        schema = {"samples": SAMPLES_SCHEMA, "digests": DIGESTS_SCHEMA}[role]
        table = read_table(self.root, self.tables[role], schema, columns)
        if table.num_rows != self.num_samples:
            raise InputError(
                f"{self.root}/{self.tables[role]} should have a row for each of the {self.num_samples} samples of the shards "
                f"table. Got {table.num_rows}."
            )
        return table


def how_to_get(split: str) -> str:
    """Returns what to do if a set lacks a split that is to be read."""
    if split == "train":
        return (
            "Training reads `train` and no other: write it with `matl-data shard --split train`, into this set or anew."
        )
    return "Name one of these: in training with `eval.split`, in commands with --split."


def read_manifest(folder: str | Path | Store, version: str = "") -> Manifest:
    """Reads a shard set's manifest.

    Args:
        folder: The set's folder, or its URL.
        version: A version's number or the beginning of its id; the newest if empty.

    Raises:
        InputError: The folder holds no complete shard set or no such version, or a table is not the one that is listed.
    """
    root = folder if isinstance(folder, Store) else Store(folder)
    entries = read_entries(root)
    entry = choose_version(root, entries, version)
    tables = {role: entry["tables"][role]["file"] for role in ROLES}
    for file in [*(entry["tables"][role] for role in ROLES), *entry["labels"]]:
        check_file(root, file)
    rows = read_table(root, tables["tasks"], TASKS_SCHEMA).to_pylist()
    shards = read_table(root, tables["shards"], SHARDS_SCHEMA)
    check_tables(root, rows, shards, entry)
    return Manifest(
        root=root,
        id=entry["id"],
        version=entry["version"],
        tasks=tuple(Task(name=row["name"], classes=tuple(row["classes"]), source=row["source"]) for row in rows),
        counts=tuple(np.array(row["counts"], dtype=np.int64) for row in rows),
        label_references=tuple(LabelReference(row["file"], row["column"]) for row in rows),
        shards=shards,
        tables=tables,
        oriented=entry.get("oriented"),
        entries=entries,
    )


def check_tables(root: Store, tasks: Sequence[Mapping[str, Any]], shards: pa.Table, entry: Mapping[str, Any]) -> None:
    """Raises `InputError` if the tables of tasks and shards hold what no writer writes."""
    path, samples = (f"{root}/{entry['tables'][role]['file']}" for role in ("shards", "samples"))
    files, sizes = shards["file"].to_pylist(), shards["samples"].to_pylist()
    with root.fetched(entry["tables"]["samples"]["file"]) as local, parquet_errors(samples):
        num_samples = pq.read_metadata(local).num_rows
    if min(sizes, default=1) < 1 or sum(sizes) != num_samples:
        raise InputError(f"{path} should list the {num_samples} samples of the set. It lists {sum(sizes)}.")
    if wrong := [name for name in files if not is_file_name(name) or not name.endswith(".tar")]:
        raise InputError(f"{path} should list tars of this folder. Got {wrong[0]!r}.")
    known = {file["file"] for file in entry["labels"]}
    for task in tasks:
        if task["file"] not in known:
            raise InputError(
                f"{root}: the labels of task `{task['name']}` are in {task['file']!r}, which the manifest does not list."
            )
        if len(task["counts"]) != len(task["classes"]):
            raise InputError(f"{root}: task `{task['name']}` should have a count for each class.")
