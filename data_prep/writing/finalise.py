"""Makes a shard set of finished shards: joins their tables in order, then writes the manifest.

Only a few shards' tables are in memory at a time; only a set that new splits join is read as a whole.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.planning.plan import Plan
from data_prep.writing.lists import list_left_out
from data_prep.writing.shard import has_tar, read_record, record_name
from matl_scale.data.shards.layout import DIGESTS_SCHEMA, SAMPLES_SCHEMA, SHARDS_SCHEMA, WORK, label_dtype, table_name
from matl_scale.data.shards.manifest import Manifest, read_manifest
from matl_scale.data.shards.tables import (
    LabelReference,
    TaskCounts,
    column_name,
    describe_file,
    label_schema,
    label_table,
    tasks_table,
)
from matl_scale.data.shards.versions import append_version
from matl_scale.errors import InputError, shortened
from matl_scale.storage.files import sync_to_disk
from matl_scale.storage.store import Store
from matl_scale.tasks import Task

GROUP_ROWS = 65_536


@dataclass(frozen=True, kw_only=True)
class TablePart:
    """Consecutive rows of the new set's tables: samples, digests, and labels of shape `(num_rows, num_tasks)`."""

    samples: pa.Table
    digests: pa.Table
    labels: np.ndarray


def finalise(out: Store, plan: Plan, existing: Manifest | None, scratch: Path) -> Manifest:
    """Writes the manifest of a set whose shards are all finished, and removes the folder of unfinished work.

    Raises:
        InputError: Shards are missing.
    """
    records = read_records(out, plan)
    version = len(existing.entries) + 1 if existing else 1
    names = {role: table_name(role, version) for role in ("samples", "digests", "labels", "tasks", "shards")}
    written = [record for record in records if record["samples"]]
    if not written:
        raise InputError(f"{out} would hold no image: all images of its {len(plan.shards)} shards are bad.")
    write_tables(out, plan, existing, written, scratch, names)
    for name in names.values():
        sync_to_disk(scratch / name)
        out.publish(scratch / name, name)
    list_left_out(out, records)
    splits = ", ".join(dict.fromkeys(shard.split for shard in plan.shards))
    append_version(
        out,
        existing.entries if existing else [],
        {role: describe_file(out, names[role]) for role in ("tasks", "shards", "samples", "digests")},
        [describe_file(out, names["labels"])],
        change=f"{'added ' if existing else ''}{splits}",
        plan=plan.id,
        oriented=count_oriented(existing, records),
    )
    out.remove(WORK)
    return read_manifest(out)


def count_oriented(existing: Manifest | None, records: Sequence[Mapping[str, Any]]) -> int | None:
    """Returns how many images carry an orientation; None if a part was written before these were counted."""
    counts = [record.get("oriented") for record in records] + ([existing.oriented] if existing else [])
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def write_tables(
    out: Store,
    plan: Plan,
    existing: Manifest | None,
    records: Sequence[Mapping[str, Any]],
    folder: Path,
    names: Mapping[str, str],
) -> None:
    """Writes the tables of the new version to a local folder, first the rows of `existing`, then those of the new shards."""
    first_shard = existing.shards.num_rows if existing else 0
    counts = write_rows(
        chain(
            read_existing(existing) if existing else (),
            (read_part(out, plan, record, shard) for shard, record in enumerate(records, start=first_shard)),
        ),
        plan.tasks,
        {role: folder / name for role, name in names.items()},
    )
    shards = pa.Table.from_pylist(
        [{key: record[key] for key in SHARDS_SCHEMA.names} for record in records], schema=SHARDS_SCHEMA
    )
    if existing:
        shards = pa.concat_tables([existing.shards, shards])
    references = [LabelReference(names["labels"], column_name(task.name)) for task in plan.tasks]
    tasks = tasks_table(plan.tasks, references, counts, sum(shards["samples"].to_pylist()))
    pq.write_table(shards, folder / names["shards"], compression="zstd")
    pq.write_table(tasks, folder / names["tasks"], compression="zstd")


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


def read_part(out: Store, plan: Plan, record: Mapping[str, Any], index: int) -> TablePart:
    """Reads the table of a finished shard, which becomes shard `index` of the set."""
    with out.fetched(record_name(record["file"])) as path:
        table = pq.read_table(path)
    count = table.num_rows
    dtype = label_dtype(plan.tasks)
    labels = table["labels"].combine_chunks()
    matrix = np.frombuffer(labels.buffers()[1], dtype=dtype).reshape(-1, len(plan.tasks))
    samples = {
        "split": pa.array([record["split"]] * count, pa.string()),
        "shard": pa.array(np.full(count, index, dtype=np.int32)),
    }
    columns = [samples[name] if name in samples else table[name] for name in SAMPLES_SCHEMA.names]
    return TablePart(
        samples=pa.table(columns, schema=SAMPLES_SCHEMA),
        digests=pa.table([table["sha256_16"]], schema=DIGESTS_SCHEMA),
        labels=matrix[labels.offset : labels.offset + count],
    )


def read_existing(existing: Manifest) -> Iterator[TablePart]:
    """Yields the table rows of a set that new splits join."""
    digests, start = existing.digest_table(), 0
    for labels in existing.label_groups(range(len(existing.tasks)), GROUP_ROWS):
        yield TablePart(
            samples=existing.samples.slice(start, len(labels)),
            digests=digests.slice(start, len(labels)),
            labels=labels,
        )
        start += len(labels)


def write_rows(parts: Iterable[TablePart], tasks: Sequence[Task], paths: Mapping[str, Path]) -> list[np.ndarray]:
    """Writes the samples, digests and labels tables side by side, and returns the number of labels of each class of each task."""
    counts = TaskCounts(tasks)
    schemas = {"samples": SAMPLES_SCHEMA, "digests": DIGESTS_SCHEMA, "labels": label_schema(tasks)}
    with ExitStack() as stack:
        writers = {
            role: stack.enter_context(pq.ParquetWriter(paths[role], schema, compression="zstd"))
            for role, schema in schemas.items()
        }
        for group in group_parts(parts):
            labels = np.concatenate([part.labels for part in group])
            counts.add(labels)
            writers["samples"].write_table(pa.concat_tables([part.samples for part in group]))
            writers["digests"].write_table(pa.concat_tables([part.digests for part in group]))
            writers["labels"].write_table(label_table(tasks, labels))
    return counts.counts


def group_parts(parts: Iterable[TablePart]) -> Iterator[list[TablePart]]:
    """Yields the parts in groups of at least `GROUP_ROWS` rows, except for the last one; a group becomes a row group."""
    group: list[TablePart] = []
    for part in parts:
        group.append(part)
        if sum(part.samples.num_rows for part in group) >= GROUP_ROWS:
            yield group
            group = []
    if group:
        yield group
