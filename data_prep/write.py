"""Writes a data set as a shard set. All work happens under `.partial`; the manifest comes last and means "done"."""

import hashlib
import io
import os
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import pyarrow as pa

from data_prep.dataset import Dataset
from data_prep.images import CheckedImage, check_image
from data_prep.progress import track
from matl_scale.data.shards import (
    HEADER_BYTES,
    MANIFEST_FILE,
    SAMPLES_SCHEMA,
    SHARDS_SCHEMA,
    InputError,
    Manifest,
    encode_label_row,
    label_dtype,
    member_name,
    read_manifest,
    sample_key,
    shard_name,
    shortened,
    split_rank,
    write_manifest,
)

STAGING = ".partial"


class ShardWriter:
    """Writes the shards of one split: reproducible headers, a new shard when one is full."""

    def __init__(self, folder: Path, split: str, max_bytes: int) -> None:
        self.folder, self.split, self.max_bytes = folder, split, max_bytes
        self.shards: list[dict[str, object]] = []
        self.samples: list[dict[str, object]] = []
        self._tar: tarfile.TarFile | None = None

    def add(self, key: str, image: CheckedImage, label_row: np.ndarray, path: str) -> None:
        if self._tar is not None and self._file.tell() >= self.max_bytes:
            self.close()
        tar = self._tar or self._open()
        offset = self._add_member(tar, member_name(key, image.extension), image.data)
        self._add_member(tar, member_name(key, "npy"), encode_label_row(label_row))
        self._count += 1
        self.samples.append(
            {
                "key": key,
                "split": self.split,
                "shard": len(self.shards),
                "offset": offset,
                "size": len(image.data),
                "extension": image.extension,
                "width": image.width,
                "height": image.height,
                "path": path,
            }
        )

    def close(self) -> None:
        """Finishes the open shard, if there is one."""
        if self._tar is None:
            return
        self._tar.close()
        self._file.close()
        self.shards.append(
            {
                "file": self._path.name,
                "split": self.split,
                "samples": self._count,
                "bytes": self._path.stat().st_size,
                "sha256": self._file.sha256.hexdigest(),
            }
        )
        self._tar = None

    def abandon(self) -> None:
        """Closes the open file without finishing the shard."""
        if self._tar is not None:
            self._file.close()
            self._tar = None

    def _open(self) -> tarfile.TarFile:
        self._path = self.folder / shard_name(self.split, len(self.shards))
        self._file = HashingFile(self._path)
        self._tar = tarfile.open(fileobj=cast(BinaryIO, self._file), mode="w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115
        self._count = 0
        return self._tar

    @staticmethod
    def _add_member(tar: tarfile.TarFile, name: str, data: bytes) -> int:
        """Adds a member without owner or time, so that equal input gives equal bytes. Returns the data's offset."""
        member = tarfile.TarInfo(name)
        member.size = len(data)
        member.mode = 0o644
        offset = tar.offset + HEADER_BYTES
        tar.addfile(member, io.BytesIO(data))
        return offset


class HashingFile:
    """A file that is written once, front to back, and hashed on the way; synced to disk when it is closed."""

    def __init__(self, path: Path) -> None:
        self.sha256 = hashlib.sha256()
        self._file: BinaryIO = path.open("wb")

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        return self._file.write(data)

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()


def write_shard_set(dataset: Dataset, out: Path, *, shard_mb: float = 256, resize: int | None = None) -> Manifest:
    """Writes `dataset` to the folder `out`, or adds its splits to the shard set that is there.

    Args:
        dataset: What to write.
        out: A folder that is missing, empty, or a shard set with the same tasks and none of these splits.
        shard_mb: A shard is closed once it holds this many megabytes (10⁶ bytes).
        resize: Side length in pixels to which images are scaled and cropped; None keeps their bytes.

    Raises:
        InputError: `out` cannot take the data, or an image cannot be decoded. Nothing is left behind.
    """
    existing = open_target(out, dataset)
    with staging_folder(out) as staging:
        writers = write_tars(dataset, staging, existing, int(shard_mb * 1e6), resize)
        shards, samples, labels = join_tables(writers, dataset, existing)
        for writer in writers:
            for shard in writer.shards:
                os.replace(staging / str(shard["file"]), out / str(shard["file"]))
        tasks = existing.tasks if existing else dataset.tasks
        version = existing.version + 1 if existing else 1
        write_manifest(out, tasks, shards, samples, labels, version)
    if existing:
        for name in existing.tables.values():
            (out / name).unlink()
    return read_manifest(out)


def write_tars(
    dataset: Dataset, staging: Path, existing: Manifest | None, max_bytes: int, resize: int | None
) -> list[ShardWriter]:
    names = sorted(set(dataset.splits), key=split_rank)
    writers = {name: ShardWriter(staging, name, max_bytes) for name in names}
    first_key = existing.samples.num_rows if existing else 0
    count = len(dataset.names)
    rows = zip(dataset.read_images(), dataset.names, dataset.splits, dataset.labels, strict=True)
    try:
        for index, (data, name, split, label_row) in enumerate(track(rows, count, "images")):
            image = check_image(data, str(dataset.place / name), resize)
            writers[split].add(sample_key(first_key + index), image, label_row, name)
        for writer in writers.values():
            writer.close()
    finally:
        for writer in writers.values():
            writer.abandon()
    return list(writers.values())


def join_tables(
    writers: list[ShardWriter], dataset: Dataset, existing: Manifest | None
) -> tuple[pa.Table, pa.Table, np.ndarray]:
    """Puts the splits one after the other, behind those that are there already."""
    num_shards = existing.shards.num_rows if existing else 0
    first_key = existing.samples.num_rows if existing else 0
    shards, samples = [], []
    for writer in writers:
        samples += [{**sample, "shard": num_shards + int(str(sample["shard"]))} for sample in writer.samples]
        num_shards += len(writer.shards)
        shards += writer.shards
    order = [int(str(sample["key"])) - first_key for sample in samples]
    new_labels = dataset.labels[order]
    shard_table = pa.Table.from_pylist(shards, schema=SHARDS_SCHEMA)
    sample_table = pa.Table.from_pylist(samples, schema=SAMPLES_SCHEMA)
    if existing is None:
        return shard_table, sample_table, new_labels.astype(label_dtype(dataset.tasks))
    return (
        pa.concat_tables([existing.shards, shard_table]),
        pa.concat_tables([existing.samples, sample_table]),
        np.concatenate([existing.labels(), new_labels.astype(label_dtype(existing.tasks))]),
    )


def open_target(out: Path, dataset: Dataset) -> Manifest | None:
    """Returns the shard set to extend, or None for a new one.

    Raises:
        InputError: The folder holds something else, or a set that these splits cannot join.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    if not (out / MANIFEST_FILE).is_file():
        raise InputError(
            f"--out {out} is not empty and no complete shard set. Give another folder, or delete this one "
            "(an interrupted run leaves one behind)."
        )
    existing = read_manifest(out)
    if taken := [name for name in existing.splits if name in set(dataset.splits)]:
        raise InputError(
            f"--out {out} is not empty: it already has the split {shortened(taken)}. Give another folder, or another "
            "split name (--split) to add to this set."
        )
    check_same_tasks(existing, dataset)
    return existing


def check_same_tasks(existing: Manifest, dataset: Dataset) -> None:
    mine, theirs = ({task.name: task.classes for task in tasks} for tasks in (dataset.tasks, existing.tasks))
    if list(mine.items()) != list(theirs.items()):
        different = [name for name in {**theirs, **mine} if mine.get(name) != theirs.get(name)]
        raise InputError(
            f"The new split should have the tasks and classes of {existing.root}, in its order. "
            f"These differ: {shortened(different or mine)}."
        )
    if repeated := sorted(set(existing.samples["path"].to_pylist()) & set(dataset.names)):
        raise InputError(
            f"An image should be in one split only. {len(repeated)} are in {existing.root} already: {shortened(repeated)}."
        )


@contextmanager
def staging_folder(out: Path) -> Iterator[Path]:
    """Gives a folder inside `out` for unfinished files; removes it, and an `out` that is still empty, in the end."""
    is_new = not out.exists()
    staging = out / STAGING
    try:
        staging.mkdir(parents=True)
    except FileExistsError as error:
        raise InputError(
            f"{staging} exists: another call is writing there, or one was interrupted. If none is running, delete it."
        ) from error
    except OSError as error:
        raise InputError(f"--out {out} cannot be written to: {error}.") from error
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        if is_new and not any(out.iterdir()):
            out.rmdir()
