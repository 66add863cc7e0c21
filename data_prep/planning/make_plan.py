"""Decides which image goes where: copies are dropped, splits drawn, shards cut. Everything is checked before a tar is begun."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.dataset import Dataset
from data_prep.image_check import check_image
from data_prep.labels.label_column import map_matrix
from data_prep.labels.name_index import NameIndex
from data_prep.planning.copies import drop_copies
from data_prep.planning.plan import DROPPED, Plan, cut_shards
from data_prep.planning.row_tables import LABELS_FILE, SPLITS_FILE, RowTables, read_names
from data_prep.planning.splits import Draw, check_classes_in_train, check_two_classes, draw_splits
from matl_scale.data.images.gate import MAX_PIXELS, BadImage
from matl_scale.data.images.interface import CHUNK_SIZE, Images
from matl_scale.data.shards.layout import HEADER_BYTES, encode_label_row, label_dtype, padded
from matl_scale.data.shards.manifest import Manifest
from matl_scale.data.shards.tables import TaskCounts
from matl_scale.errors import InputError, shortened
from matl_scale.tasks import Task
from matl_scale.text import count_of

SIZE_SAMPLES = 256  # images from which the mean size is estimated


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a shard set is written.

    Attributes:
        shard_mb: Size of a shard in 10⁶ bytes; all shards of a split get equally many samples.
        resize: Side length in pixels to which images are scaled and cropped; None keeps their bytes.
        draw: How splits are drawn; None keeps the splits of the rows.
        dedupe: Whether copies of an image are left out.
        max_pixels: Images with more pixels cannot be used.
        skip_bad: Whether images that cannot be decoded are left out; otherwise they are an error.
        workers: Number of processes.
        partition: (i, n) writes every n-th shard from the i-th, counted from 1, and does not finish the set.
    """

    shard_mb: float = 256
    resize: int | None = None
    draw: Draw | None = None
    dedupe: bool = False
    max_pixels: int = MAX_PIXELS
    skip_bad: bool = False
    workers: int = 1
    partition: tuple[int, int] | None = None

    def identity(self) -> dict[str, Any]:
        """Returns the options that decide where a good image is in the set."""
        values = asdict(self)
        return {name: values[name] for name in ("shard_mb", "resize", "dedupe", "draw")}


def make_plan(tables: RowTables, id: str, dataset: Dataset, existing: Manifest | None, options: Options) -> Plan:
    """Makes the plan for the rows of a data set, and writes their splits anew.

    Raises:
        InputError: The rows cannot form a set, or cannot join `existing`.
    """
    folder, tasks, images = tables.folder, tuple(dataset.tasks), dataset.images
    labels = map_matrix(folder / LABELS_FILE, label_dtype(tasks), tables.num_rows, len(tasks))
    numbers, splits = np.fromfile(folder / SPLITS_FILE, dtype=np.uint8), list(tables.splits)
    if existing:
        check_same_tasks(existing, tasks)
    if options.dedupe:
        drop_copies(folder, numbers, splits, images, existing, options.resize, options.max_pixels, options.workers)
    if options.draw:
        deal_splits(numbers, splits, labels, tasks, options.draw)
    counts = count_by_split(numbers, splits, labels, tasks)
    if existing:
        check_new(existing, list(counts), folder, numbers)
        counts |= count_existing(existing)
    else:
        check_two_classes(counts, tasks)
    check_classes_in_train(counts, tasks)
    numbers.tofile(folder / SPLITS_FILE)
    label_member = encode_label_row(np.zeros(len(tasks), dtype=labels.dtype))
    overhead = 2 * HEADER_BYTES + int(padded(np.array(len(label_member))))
    sample_bytes = overhead + estimate_size(folder, numbers, images, options.resize, options.max_pixels)
    first_key = 1 + int(existing.sample_columns("key").column(0)[-1].as_py()) if existing else 0
    return Plan(
        folder=folder,
        id=id,
        tasks=tasks,
        splits=tuple(splits),
        shards=tuple(cut_shards(numbers, splits, sample_bytes, options.shard_mb * 1e6, first_key)),
        num_rows=tables.num_rows,
        resize=options.resize,
        image_root=images.root,
    )


def deal_splits(numbers: np.ndarray, splits: list[str], labels: np.ndarray, tasks: Sequence[Task], draw: Draw) -> None:
    """Deals out the rows of one split; changes `numbers` and adds new names to `splits`."""
    rows = np.flatnonzero(numbers == splits.index(draw.of)) if draw.of in splits else np.zeros(0, dtype=np.int64)
    if not len(rows):
        raise InputError(
            f"Splits should be drawn from `{draw.of}`, which has no image. There are: {shortened(splits)}."
        )
    # a plain draw uses the number of rows only, and a copy of their labels would need as much memory as they do
    chosen = labels[rows] if draw.stratify and len(rows) < len(labels) else labels[: len(rows)]
    drawn = draw_splits(chosen, tasks, draw)
    splits += [name for name in draw.fractions if name not in splits]
    numbers[rows] = np.array([splits.index(name) for name in draw.fractions], dtype=np.uint8)[drawn]


def count_by_split(
    numbers: np.ndarray, splits: Sequence[str], labels: np.ndarray, tasks: Sequence[Task]
) -> dict[str, list[np.ndarray]]:
    """Counts the classes of every task in each split that has a row."""
    by_split: dict[str, TaskCounts] = {}
    for start in range(0, len(labels), CHUNK_SIZE):
        chunk_numbers, chunk = numbers[start : start + CHUNK_SIZE], labels[start : start + CHUNK_SIZE]
        for number in np.unique(chunk_numbers[chunk_numbers != DROPPED]).tolist():
            by_split.setdefault(splits[number], TaskCounts(tasks)).add(chunk[chunk_numbers == number])
    return {split: found.counts for split, found in by_split.items()}


def count_existing(existing: Manifest) -> dict[str, list[np.ndarray]]:
    """Counts the classes of every task in each split of a set; reads the labels of one task at a time."""
    split_of, splits = existing.split_numbers(), list(existing.splits)
    counts = {split: list[np.ndarray]() for split in splits}
    for task_id, task in enumerate(existing.tasks):
        column = existing.labels([task_id])
        for split, found in count_by_split(split_of, splits, column, [task]).items():
            counts[split] += found
    return counts


def estimate_size(folder: Path, numbers: np.ndarray, images: Images, resize: int | None, max_pixels: int) -> float:
    """Returns the mean size in bytes of some evenly spaced images, each padded as in a tar."""
    rows = np.flatnonzero(numbers != DROPPED)
    if not len(rows):
        raise InputError(
            "There should be at least one image with a label row that is no copy of another (--dedupe). Got none."
        )
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, SIZE_SAMPLES).astype(int))]
    sizes = []
    for data in images.read(*read_names(folder, rows)):
        try:
            sizes.append(len(check_image(data, resize, max_pixels).data) if resize else len(data))
        except BadImage:  # named when its shard is written
            continue
    return float(padded(np.array(sizes or [0])).mean())


def check_same_tasks(existing: Manifest, tasks: Sequence[Task]) -> None:
    """Raises `InputError` if rows with these tasks cannot join a set."""
    mine, theirs = ({task.name: task.classes for task in some} for some in (tasks, existing.tasks))
    if list(mine.items()) != list(theirs.items()):
        different = [name for name in {**theirs, **mine} if mine.get(name) != theirs.get(name)]
        raise InputError(
            f"The new split should have the tasks and classes of {existing.root}, in the same order. "
            f"These differ: {shortened(different or mine)}."
        )


def check_new(existing: Manifest, splits: Sequence[str], folder: Path, numbers: np.ndarray) -> None:
    """Raises `InputError` if a set already has one of these splits, or one of the images in another split."""
    if taken := [name for name in existing.splits if name in splits]:
        raise InputError(
            f"--out {existing.root} already has the split {shortened(taken)}, from other images, labels or options. Give another "
            "folder, or another split name (--split) to add to this set."
        )
    paths = existing.sample_columns("path").column(0)
    index = NameIndex(lambda: (chunk.to_pylist() for chunk in paths.iterchunks()), "image of the set")
    repeated: list[str] = []
    written = np.flatnonzero(numbers != DROPPED)
    for start in range(0, len(written), CHUNK_SIZE):
        names, _ = read_names(folder, written[start : start + CHUNK_SIZE])
        repeated += [names[i] for i in np.flatnonzero(index.find(names) >= 0)]
    if repeated:
        raise InputError(
            f"An image should be in one split only. {existing.root} has {count_of(len(repeated), 'image')} of these names "
            f"already: {shortened(repeated)}. If they are other images, as in train/ and val/, prepare both in one call: "
            "--images with the folder above, names that begin with train/ or val/ in the table, and --split-column."
        )
