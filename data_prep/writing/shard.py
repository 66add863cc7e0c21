"""Writes the shards of a plan. A shard is finished when its table is in `.work`, which is written last, after the tar."""

import json
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.image_check import CheckedImage, check_image, digest_image
from data_prep.planning.plan import Plan, PlannedShard
from data_prep.planning.row_tables import read_names
from data_prep.pool import Advance, run_jobs
from data_prep.writing.tar import TarWriter
from matl_scale.data.images.gate import BadImage
from matl_scale.data.images.interface import RUN_AGAIN, Images
from matl_scale.data.images.orientation import UPRIGHT
from matl_scale.data.shards.layout import DIGEST_BYTES, WORK, sample_key
from matl_scale.errors import InputError, explain_os_error, shortened
from matl_scale.storage.store import Store
from matl_scale.text import count_of

BLOCK_BYTES, BLOCK_SAMPLES = 4 << 20, 1024
RECORD_KEY = b"matl_scale"


@dataclass(frozen=True, kw_only=True)
class ShardOutcome:
    """What became of a shard: whether it was finished already, and its bad images, each with the reason."""

    file: str
    was_finished: bool
    bad: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True, kw_only=True)
class ShardWork:
    """Writes one shard of a plan, in any process."""

    plan: Plan
    images: Images
    out: str  # the shard set's folder or URL
    max_pixels: int  # images with more pixels are bad
    skip_bad: bool  # whether bad images are left out; otherwise a shard with a bad image is not finished
    scratch: Path  # folder for unfinished files

    def __call__(self, job: int, advance: Advance) -> ShardOutcome:
        shard, out = self.plan.shards[job], Store(self.out)
        record = read_record(out, shard, self.plan.id)
        if record is not None and self._judges_as(record) and has_tar(out, record, check_content=True):
            advance(shard.samples)
            skipped = [(name, reason) for name, reason in record["skipped"]]
            return ShardOutcome(file=shard.file, was_finished=True, bad=skipped)
        path = self.scratch / f"{shard.file}-{os.getpid()}-{secrets.token_hex(4)}"
        tar = TarWriter(path)
        try:
            blocks, bad, num_oriented = self._fill(tar, shard, advance)
            if bad and not self.skip_bad:
                return ShardOutcome(file=shard.file, was_finished=False, bad=bad)
            sha256 = tar.close()
            record = {
                "plan": self.plan.id,
                "file": shard.file,
                "split": shard.split,
                "samples": sum(block.num_rows for block in blocks),
                "bytes": tar.size,
                "sha256": sha256,
                "skipped": bad,
                "max_pixels": self.max_pixels,
                "oriented": num_oriented,
            }
            out.remove(record_name(shard.file))
            if blocks:
                out.publish(path, shard.file)
            write_record(out, record, blocks)
            return ShardOutcome(file=shard.file, was_finished=False, bad=bad)
        except OSError as error:
            reason = explain_os_error(error) or f"{error.strerror or error}."
            raise InputError(f"{out}/{shard.file} cannot be written: {reason} {RUN_AGAIN}") from error
        finally:
            tar.abandon()
            path.unlink(missing_ok=True)

    def _fill(
        self, tar: TarWriter, shard: PlannedShard, advance: Advance
    ) -> tuple[list[pa.RecordBatch], list[tuple[str, str]], int]:
        """Writes the samples of a shard, and returns their rows, the bad images, and how many samples carry an orientation."""
        rows, labels = self.plan.rows_of(shard), self.plan.labels
        names, indices = read_names(self.plan.folder, rows)
        blocks, bad, num_oriented = list[pa.RecordBatch](), list[tuple[str, str]](), 0
        images = zip(range(len(rows)), names, self.images.read(names, indices), strict=True)
        while block := next_block(images):
            good, checked = [], []
            for i, name, data in block:
                try:
                    checked.append(check_image(data, self.plan.resize, self.max_pixels))
                    good.append(i)
                except BadImage as error:
                    bad.append((name, str(error)))
            if good:
                keys = [sample_key(shard.first_key + i) for i in good]
                blocks.append(add_block(tar, keys, [names[i] for i in good], checked, labels[rows[good]]))
            num_oriented += sum(image.orientation != UPRIGHT for image in checked)
            advance(len(block))
        return blocks, bad, num_oriented

    def _judges_as(self, record: Mapping[str, Any]) -> bool:
        """Returns whether this call would leave the same images out as the one that wrote a shard."""
        return not record["skipped"] or record.get("max_pixels", self.max_pixels) == self.max_pixels


def next_block(images: Iterator[tuple[int, str, bytes]]) -> list[tuple[int, str, bytes]]:
    """Returns the next images, as many as fit into a block."""
    block, size = [], 0
    for entry in islice(images, BLOCK_SAMPLES):
        block.append(entry)
        size += len(entry[2])
        if size >= BLOCK_BYTES:
            break
    return block


def add_block(
    tar: TarWriter, keys: Sequence[str], names: Sequence[str], images: Sequence[CheckedImage], labels: np.ndarray
) -> pa.RecordBatch:
    """Adds samples to a tar, and returns their rows in the shard's table."""
    offsets = tar.add(keys, images, labels)
    row_bytes = labels.shape[1] * labels.itemsize
    columns = {
        "key": pa.array(keys, pa.string()),
        "offset": pa.array(offsets),
        "size": pa.array([len(image.data) for image in images], pa.int64()),
        "extension": pa.array([image.extension for image in images], pa.string()),
        "width": pa.array([image.width for image in images], pa.int32()),
        "height": pa.array([image.height for image in images], pa.int32()),
        "path": pa.array(names, pa.string()),
        "sha256_16": pa.array([digest_image(image.data) for image in images], pa.binary(DIGEST_BYTES)),
        "labels": pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(row_bytes), len(keys), [None, pa.py_buffer(np.ascontiguousarray(labels))]
        ),
    }
    return pa.RecordBatch.from_pydict(columns)


def record_name(file: str) -> str:
    """Returns the name of the table of a finished shard, which also holds its record."""
    return f"{WORK}/{file.removesuffix('.tar')}.parquet"


def write_record(out: Store, record: dict[str, Any], blocks: Sequence[pa.RecordBatch]) -> None:
    """Writes the table of a finished shard: samples, digests and labels. A table without samples has no columns."""
    table = pa.Table.from_batches(blocks) if blocks else pa.table({})
    table = table.replace_schema_metadata({RECORD_KEY: json.dumps(record).encode()})
    out.write(record_name(record["file"]), lambda path: pq.write_table(table, path, compression="zstd"))


def read_record(out: Store, shard: PlannedShard, plan_id: str) -> dict[str, Any] | None:
    """Returns the record of a finished shard; None if it is not finished or belongs to another plan."""
    if not out.exists(record_name(shard.file)):
        return None
    try:
        with out.fetched(record_name(shard.file)) as path:
            record: dict[str, Any] = json.loads(pq.read_schema(path).metadata[RECORD_KEY])
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError):
        return None
    fits = record.get("samples", 0) + len(record.get("skipped", ())) == shard.samples
    return record if record.get("plan") == plan_id and fits else None


def has_tar(out: Store, record: dict[str, Any], check_content: bool = False) -> bool:
    """Returns whether a shard's tar is the recorded one, by its size or by its content; a shard without samples has no tar."""
    name = str(record["file"])
    if not record["samples"]:
        return True
    has_size = out.exists(name) and out.size(name) == record["bytes"]
    return has_size and (not check_content or out.sha256(name) == record["sha256"])


def write_shards(work: ShardWork, jobs: Sequence[int], workers: int) -> list[ShardOutcome]:
    """Writes shards of a plan, given as indices, except those that are finished already.

    Raises:
        InputError: Images are bad and `skip_bad` is false. They are counted, the first are named, and all other shards are
            finished.
    """
    total = sum(work.plan.shards[job].samples for job in jobs)
    outcomes = list(run_jobs(work, jobs, workers, total, "images"))
    bad = sorted(entry for outcome in outcomes for entry in outcome.bad)
    if bad and not work.skip_bad:
        listed = shortened((f"{work.plan.image_root}/{name}: {reason}" for name, reason in bad), 5)
        raise InputError(
            f"{count_of(len(bad), 'image')} cannot be used: {listed}. Replace them, or leave them out with --skip-bad."
        )
    return outcomes
