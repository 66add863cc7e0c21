"""Decides what goes where: copies dropped, splits drawn, shards cut. Everything is checked here, before a tar is begun."""

import csv
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.dataset import Dataset
from data_prep.image_check import BadImage, check_image, digest_image
from data_prep.labels.matrix import map_matrix
from data_prep.labels.name_index import NameIndex
from data_prep.planning.duplicates import find_duplicates, rank_splits
from data_prep.planning.plan import DROPPED, DROPPED_FILE, Plan, cut_shards
from data_prep.planning.row_tables import LABELS_FILE, SPLITS_FILE, Spooled, read_names
from data_prep.planning.splits import Draw, check_classes_in_train, draw_splits
from data_prep.pool import Advance, run_jobs
from matl_scale.data.images.interface import CHUNK_ROWS, Images
from matl_scale.data.shards.layout import (
    DIGEST_BYTES,
    HEADER_BYTES,
    class_counts,
    encode_label_row,
    label_dtype,
    padded,
)
from matl_scale.data.shards.manifest import Manifest
from matl_scale.errors import InputError, shortened
from matl_scale.tasks import Task

SIZE_SAMPLES = 256  # images whose sizes stand for all


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a shard set is written.

    Attributes:
        shard_mb: Size of a shard in 10⁶ bytes; all shards of a split get equally many samples.
        resize: Side length in pixels to which images are scaled and cropped; None keeps their bytes.
        draw: How splits are drawn; None keeps those that the rows have.
        dedupe: Whether copies of an image are left out.
        skip_bad: Whether images that cannot be decoded are left out; else they are an error.
        workers: Number of processes.
        partition: (i, n) writes every n-th shard from the i-th, counted from 1, and leaves the set open.
    """

    shard_mb: float = 256
    resize: int | None = None
    draw: Draw | None = None
    dedupe: bool = False
    skip_bad: bool = False
    workers: int = 1
    partition: tuple[int, int] | None = None

    def identity(self) -> dict[str, Any]:
        """Returns the options on which a good image's place in the set depends."""
        return {
            "shard_mb": self.shard_mb,
            "resize": self.resize,
            "dedupe": self.dedupe,
            "draw": self.draw and asdict(self.draw),
        }


def make_plan(
    folder: Path,
    spooled: Spooled,
    id: str,
    dataset: Dataset,
    existing: Manifest | None,
    options: Options,
) -> Plan:
    """Makes the plan of spooled rows, whose tables are in `folder`.

    Args:
        folder: Of the tables.
        spooled: The rows.
        id: Of the plan.
        dataset: Where they are from.
        existing: The set that they join, if there is one.
        options: How the set is written.

    Raises:
        InputError: The rows cannot make a set, or cannot join `existing`.
    """
    tasks, images = tuple(dataset.tasks), dataset.images
    labels = map_matrix(folder / LABELS_FILE, label_dtype(tasks), spooled.num_rows, len(tasks))
    numbers, splits = np.fromfile(folder / SPLITS_FILE, dtype=np.uint8), list(spooled.splits)
    if existing:
        check_same_tasks(existing, tasks)
    if options.dedupe:
        drop_copies(folder, numbers, splits, images, existing, options)
    if options.draw:
        deal_splits(numbers, splits, labels, tasks, options.draw)
    present = [name for i, name in enumerate(splits) if (numbers == i).any()]
    if existing:
        check_new(existing, present, folder, numbers)
    counts = count_by_split(numbers, splits, labels, tasks)
    if existing:
        counts |= count_existing(existing)
    check_classes_in_train(counts, tasks)
    numbers.tofile(folder / SPLITS_FILE)
    one_label = len(encode_label_row(np.zeros(len(tasks), dtype=labels.dtype)))
    overhead = 2 * HEADER_BYTES + int(padded(np.array(one_label)))
    sample_bytes = overhead + estimate_size(folder, numbers, images, options.resize)
    first_key = 1 + int(existing.sample_columns("key").column(0)[-1].as_py()) if existing else 0
    return Plan(
        folder=folder,
        id=id,
        tasks=tasks,
        splits=tuple(splits),
        shards=tuple(cut_shards(numbers, splits, sample_bytes, options.shard_mb * 1e6, first_key)),
        num_rows=spooled.num_rows,
        resize=options.resize,
        place=images.place,
    )


def deal_splits(numbers: np.ndarray, splits: list[str], labels: np.ndarray, tasks: Sequence[Task], draw: Draw) -> None:
    """Deals out the rows of one split; changes `numbers` and adds new names to `splits`."""
    rows = np.flatnonzero(numbers == splits.index(draw.of)) if draw.of in splits else np.zeros(0, dtype=np.int64)
    if not len(rows):
        raise InputError(
            f"Splits should be drawn from `{draw.of}`, which has no image. There are: {shortened(splits)}."
        )
    # a plain draw looks at the number of rows only, and copying their labels would take as much memory as they do
    chosen = labels[rows] if draw.stratify and len(rows) < len(labels) else labels[: len(rows)]
    drawn = draw_splits(chosen, tasks, draw)
    splits += [name for name in draw.fractions if name not in splits]
    numbers[rows] = np.array([splits.index(name) for name in draw.fractions], dtype=np.uint8)[drawn]


def count_by_split(
    numbers: np.ndarray, splits: Sequence[str], labels: np.ndarray, tasks: Sequence[Task]
) -> dict[str, list[np.ndarray]]:
    """Counts the classes of every task in each split that has a row."""
    counts: dict[str, list[np.ndarray]] = {}
    for start in range(0, len(labels), CHUNK_ROWS):
        part, block = numbers[start : start + CHUNK_ROWS], labels[start : start + CHUNK_ROWS]
        for number in np.unique(part[part != DROPPED]).tolist():
            chosen = block[part == number]
            sums = counts.setdefault(splits[number], [np.zeros(task.num_classes, dtype=np.int64) for task in tasks])
            for i, task in enumerate(tasks):
                sums[i] += class_counts(chosen[:, i], task.num_classes)
    return counts


def count_existing(existing: Manifest) -> dict[str, list[np.ndarray]]:
    """Counts the classes of every task in each split of a set."""
    splits = list(existing.splits)
    counts = {split: list[np.ndarray]() for split in splits}
    for task_id, task in enumerate(existing.tasks):
        column = existing.labels([task_id])[:, 0]
        for number, split in enumerate(splits):
            counts[split].append(class_counts(column[existing.split_numbers() == number], task.num_classes))
    return counts


def estimate_size(folder: Path, numbers: np.ndarray, images: Images, resize: int | None) -> float:
    """Returns the mean size in bytes of some images, evenly spaced, each padded as in a tar."""
    rows = np.flatnonzero(numbers != DROPPED)
    if not len(rows):
        raise InputError("There should be at least one image with a label row. Got none.")
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, SIZE_SAMPLES).astype(int))]
    sizes = []
    for data in images.read(*read_names(folder, rows)):
        try:
            sizes.append(len(check_image(data, resize).data) if resize else len(data))
        except BadImage:  # named when its shard is written
            continue
    return float(padded(np.array(sizes or [0])).mean())


@dataclass(frozen=True, kw_only=True)
class HashWork:
    """Hashes the images of some rows, in whatever process."""

    folder: Path
    images: Images
    num_rows: int
    resize: int | None

    def __call__(self, job: int, advance: Advance) -> tuple[int, bytes]:
        rows = np.arange(job * CHUNK_ROWS, min((job + 1) * CHUNK_ROWS, self.num_rows))
        digests = []
        for row, data in zip(rows.tolist(), self.images.read(*read_names(self.folder, rows)), strict=True):
            # a bad image is no copy of another bad one
            digests.append(self._digest(data) or row.to_bytes(DIGEST_BYTES, "big"))
            advance(1)
        return job, b"".join(digests)

    def _digest(self, data: bytes) -> bytes | None:
        """Returns the digest of an image as it would be stored; None if it is bad."""
        try:
            data = check_image(data, self.resize).data if self.resize else data
        except BadImage:
            return None
        return digest_image(data) if data else None


def drop_copies(
    folder: Path,
    numbers: np.ndarray,
    splits: Sequence[str],
    images: Images,
    existing: Manifest | None,
    options: Options,
) -> None:
    """Marks rows as dropped whose image is a copy of one that stays; lists them in `dropped.csv` beside the plan."""
    work = HashWork(folder=folder, images=images, num_rows=len(numbers), resize=options.resize)
    jobs = range(-(-len(numbers) // CHUNK_ROWS))
    hashed = dict(run_jobs(work, jobs, options.workers, len(numbers), "images hashed"))
    digests = np.frombuffer(b"".join(hashed[job] for job in jobs), dtype="V16")
    ranks = rank_splits(splits)[numbers]
    before = existing.digests() if existing else digests[:0]
    first = np.zeros(len(before), dtype=np.uint8)  # what is in the set already stays
    copies, kept = find_duplicates(np.concatenate([before, digests]), np.concatenate([first, ranks + np.uint8(1)]))
    new = copies >= len(before)
    copies, kept = copies[new] - len(before), kept[new] - len(before)
    if len(copies):
        write_dropped(folder / DROPPED_FILE, folder, copies, kept, existing)
        print(f"left out {len(copies):,} copies: they are listed in {DROPPED_FILE}", file=sys.stderr)
    numbers[copies] = DROPPED


def write_dropped(path: Path, folder: Path, copies: np.ndarray, kept: np.ndarray, existing: Manifest | None) -> None:
    """Lists dropped copies, each with the image that stays.

    Args:
        path: Of the list.
        folder: Of the plan's tables.
        copies: Rows of the plan, ascending.
        kept: For each, the row that stays; of the existing set, counted from its end, if it is below zero.
        existing: The set.
    """
    rows = np.union1d(copies, kept[kept >= 0])
    name_of = dict(zip(rows.tolist(), read_names(folder, rows)[0], strict=True))
    if existing and (kept < 0).any():
        paths = existing.sample_columns("path").column(0)
        name_of |= {row: paths[row + len(paths)].as_py() for row in np.unique(kept[kept < 0]).tolist()}
    with path.open("w", encoding="utf-8", errors="surrogateescape") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(("copy", "of"))
        lines.writerows((name_of[copy], name_of[of]) for copy, of in zip(copies.tolist(), kept.tolist(), strict=True))


def check_same_tasks(existing: Manifest, tasks: Sequence[Task]) -> None:
    """Raises `InputError` if rows with these tasks cannot join a set."""
    mine, theirs = ({task.name: task.classes for task in some} for some in (tasks, existing.tasks))
    if list(mine.items()) != list(theirs.items()):
        different = [name for name in {**theirs, **mine} if mine.get(name) != theirs.get(name)]
        raise InputError(
            f"The new split should have the tasks and classes of {existing.root}, in its order. "
            f"These differ: {shortened(different or mine)}."
        )


def check_new(existing: Manifest, splits: Sequence[str], folder: Path, numbers: np.ndarray) -> None:
    """Raises `InputError` if a set has one of these splits already, or one of the images in another split."""
    if taken := [name for name in existing.splits if name in splits]:
        raise InputError(
            f"--out {existing.root} already has the split {shortened(taken)}, from other images, labels or options. Give another "
            "folder, or another split name (--split) to add to this set."
        )
    paths = existing.sample_columns("path").column(0)
    index = NameIndex(lambda: (chunk.to_pylist() for chunk in paths.iterchunks()), "image of the set")
    repeated: list[str] = []
    written = np.flatnonzero(numbers != DROPPED)
    for start in range(0, len(written), CHUNK_ROWS):
        names, _ = read_names(folder, written[start : start + CHUNK_ROWS])
        repeated += [names[i] for i in np.flatnonzero(index.find(names) >= 0)]
    if repeated:
        raise InputError(
            f"An image should be in one split only. {len(repeated)} are in {existing.root} already: {shortened(repeated)}."
        )
