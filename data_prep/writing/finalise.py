"""Makes a shard set of finished shards: joins their tables, in order, then writes the manifest. Memory stays that of a few
shards' tables, however many there are; only a set that others join is read whole."""

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.planning.duplicates import find_duplicates, rank_splits
from data_prep.planning.plan import DROPPED_FILE, Plan
from data_prep.writing.shard import WORK, read_record, record_name
from matl_scale.data.shards.layout import DIGESTS_SCHEMA, SAMPLES_SCHEMA, SHARDS_SCHEMA, class_counts, label_dtype
from matl_scale.data.shards.manifest import Manifest, read_manifest
from matl_scale.data.shards.tables import column_name, describe_file, label_table, tasks_table
from matl_scale.data.shards.versions import append_version
from matl_scale.errors import InputError, shortened
from matl_scale.storage.files import sync_file
from matl_scale.storage.store import Store
from matl_scale.tasks import Task

GROUP_ROWS = 65_536
DUPLICATES_FILE, SKIPPED_FILE = "duplicates.csv", "skipped.csv"


@dataclass(frozen=True, kw_only=True)
class Part:
    """Consecutive rows of the set to be: a samples table, digests, and labels `(num_rows, num_tasks)`."""

    samples: pa.Table
    digests: pa.Table
    labels: np.ndarray


def close_set(out: Store, plan: Plan, existing: Manifest | None, scratch: Path) -> Manifest:
    """Writes the manifest of a set whose shards are all finished, and removes what the work has left.

    Args:
        out: The folder of the tars.
        plan: What they were written by.
        existing: The version of the set that they join.
        scratch: Folder for unfinished tables.

    Raises:
        InputError: Shards are missing.
    """
    records = read_records(out, plan)
    version = len(existing.entries) + 1 if existing else 1
    names = {role: f"{role}.v{version}.parquet" for role in ("samples", "digests", "labels", "tasks", "shards")}
    written = [record for record in records if record["samples"]]
    if not written:
        raise InputError(f"{out} would hold no image: all {len(plan.shards)} shards are empty, their images are bad.")
    first_shard = existing.shards.num_rows if existing else 0
    counts = [np.zeros(task.num_classes, dtype=np.int64) for task in plan.tasks]
    with TableWriter(scratch, plan.tasks, names) as writer:
        parts = read_existing(existing) if existing else iter(())
        for part in parts:
            add_part(writer, counts, part, plan.tasks)
        for number, record in enumerate(written, start=first_shard):
            add_part(writer, counts, read_part(out, plan, record, number), plan.tasks)
    rows = [{key: record[key] for key in SHARDS_SCHEMA.names} for record in written]
    shards = pa.Table.from_pylist(rows, schema=SHARDS_SCHEMA)
    if existing:
        shards = pa.concat_tables([existing.shards, shards])
    places = [(names["labels"], column_name(task.name)) for task in plan.tasks]
    num_samples = sum(shards["samples"].to_pylist())
    pq.write_table(shards, scratch / names["shards"], compression="zstd")
    pq.write_table(tasks_table(plan.tasks, places, counts, num_samples), scratch / names["tasks"], compression="zstd")
    for name in names.values():
        sync_file(scratch / name)
        out.publish(scratch / name, name)
    write_lists(out, records)
    splits = ", ".join(dict.fromkeys(shard.split for shard in plan.shards))
    append_version(
        out,
        existing.entries if existing else [],
        {role: describe_file(out, names[role]) for role in ("tasks", "shards", "samples", "digests")},
        [describe_file(out, names["labels"])],
        change=f"{'added ' if existing else ''}{splits}",
        plan=plan.id,
    )
    out.remove(WORK)
    return read_manifest(out)


def read_records(out: Store, plan: Plan) -> list[dict[str, Any]]:
    """Reads the records of all shards of a plan.

    Raises:
        InputError: Some are missing, or a tar is not the one that was recorded.
    """
    found = [(shard, read_record(out, shard, plan.id)) for shard in plan.shards]
    missing = [shard.file for shard, record in found if record is None or not has_tar(out, record)]
    if missing:
        raise InputError(
            f"{out} has gaps: {len(missing)} of {len(plan.shards)} shards are not finished ({shortened(missing, 5)}). Run the "
            "`matl-data shard` that should write them again, with the same options, then merge."
        )
    return [record for _, record in found if record is not None]


def has_tar(out: Store, record: dict[str, Any]) -> bool:
    name = str(record["file"])
    return not record["samples"] or (out.exists(name) and out.size(name) == record["bytes"])


def read_part(out: Store, plan: Plan, record: dict[str, Any], number: int) -> Part:
    """Reads the table of a finished shard, which becomes number `number` of the set."""
    with out.fetched(record_name(record["file"])) as path:
        table = pq.read_table(path)
    count = table.num_rows
    dtype = label_dtype(plan.tasks)
    labels = table["labels"].combine_chunks()
    matrix = np.frombuffer(labels.buffers()[1], dtype=dtype).reshape(-1, len(plan.tasks))
    samples = {
        "split": pa.array([record["split"]] * count, pa.string()),
        "shard": pa.array(np.full(count, number, dtype=np.int32)),
    }
    columns = [samples[name] if name in samples else table[name] for name in SAMPLES_SCHEMA.names]
    return Part(
        samples=pa.table(columns, schema=SAMPLES_SCHEMA),
        digests=pa.table([table["sha256_16"]], schema=DIGESTS_SCHEMA),
        labels=matrix[labels.offset : labels.offset + count],
    )


def read_existing(existing: Manifest) -> Iterator[Part]:
    """Yields the rows of a set that others join."""
    labels, digests = existing.labels(), existing.digest_table()
    for start in range(0, existing.num_samples, GROUP_ROWS):
        yield Part(
            samples=existing.samples.slice(start, GROUP_ROWS),
            digests=digests.slice(start, GROUP_ROWS),
            labels=labels[start : start + GROUP_ROWS],
        )


def add_part(writer: "TableWriter", counts: list[np.ndarray], part: Part, tasks: Sequence[Task]) -> None:
    writer.add(part)
    for i, task in enumerate(tasks):
        counts[i] += class_counts(part.labels[:, i], task.num_classes)


class TableWriter:
    """Writes the samples, digests and labels tables side by side, in row groups of a good size.

    Args:
        folder: Where.
        tasks: One per column of the labels.
        names: File name of each table, by role.
    """

    def __init__(self, folder: Path, tasks: Sequence[Task], names: dict[str, str]) -> None:
        self.tasks = tasks
        empty = label_table(tasks, np.zeros((0, len(tasks)), dtype=label_dtype(tasks)))
        schemas = {"samples": SAMPLES_SCHEMA, "digests": DIGESTS_SCHEMA, "labels": empty.schema}
        self._writers = {
            role: pq.ParquetWriter(folder / names[role], schema, compression="zstd") for role, schema in schemas.items()
        }
        self._waiting: list[Part] = []

    def __enter__(self) -> "TableWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()
        for writer in self._writers.values():
            writer.close()

    def add(self, part: Part) -> None:
        self._waiting.append(part)
        if sum(waiting.samples.num_rows for waiting in self._waiting) >= GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        if not self._waiting:
            return
        self._writers["samples"].write_table(pa.concat_tables([part.samples for part in self._waiting]))
        self._writers["digests"].write_table(pa.concat_tables([part.digests for part in self._waiting]))
        labels = np.concatenate([part.labels for part in self._waiting])
        self._writers["labels"].write_table(label_table(self.tasks, labels))
        self._waiting = []


def write_lists(out: Store, records: Sequence[dict[str, Any]]) -> None:
    """Adds the images that were left out to the lists of them, if there are any."""
    skipped = sorted((str(name), str(reason)) for record in records for name, reason in record["skipped"])
    add_to_list(out, SKIPPED_FILE, ("image", "reason"), skipped)
    if out.exists(f"{WORK}/{DROPPED_FILE}"):
        header, *dropped = read_csv(out, f"{WORK}/{DROPPED_FILE}")
        add_to_list(out, DROPPED_FILE, header, dropped)


def add_to_list(out: Store, name: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Adds rows to a list that earlier calls may have begun; a row is there once, however often a call is repeated."""
    before = read_csv(out, name)[1:] if out.exists(name) else []
    if rows:
        write_csv(out, name, header, list(dict.fromkeys(map(tuple, [*before, *rows]))))


def read_csv(out: Store, name: str) -> list[list[str]]:
    text = out.read(name).decode("utf-8", "surrogateescape")
    return list(csv.reader(io.StringIO(text, newline="")))


def write_csv(out: Store, name: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    out.write_bytes(name, text.getvalue().encode("utf-8", "surrogateescape"))


def report_duplicates(manifest: Manifest) -> str | None:
    """Lists images that occur more than once in `duplicates.csv`, and says how many; None if there are none."""
    names, split_of = list(manifest.splits), manifest.split_numbers()
    copies, kept = find_duplicates(manifest.digests(), rank_splits(names)[split_of])
    if not len(copies):
        return None
    paths = manifest.sample_columns("path").column(0)
    rows = [
        (paths[copy].as_py(), names[split_of[copy]], paths[of].as_py(), names[split_of[of]])
        for copy, of in zip(copies.tolist(), kept.tolist(), strict=True)
    ]
    write_csv(manifest.root, DUPLICATES_FILE, ("copy", "copy_split", "of", "of_split"), rows)
    across = int((split_of[copies] != split_of[kept]).sum())
    return (
        f"{len(copies):,} images are copies of another, {across:,} of one in another split: see "
        f"{manifest.root}/{DUPLICATES_FILE}. --dedupe leaves copies out."
    )
