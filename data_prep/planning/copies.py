"""Images that occur more than once, by content: finding them, and leaving them out of a plan."""

import csv
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_prep.image_check import check_image, digest_image
from data_prep.planning.plan import DROPPED, DROPPED_FILE
from data_prep.planning.row_tables import read_names
from data_prep.pool import Advance, run_jobs
from matl_scale.data.images.gate import BadImage
from matl_scale.data.images.interface import CHUNK_SIZE, Images
from matl_scale.data.shards.layout import DIGEST_BYTES, split_rank
from matl_scale.data.shards.manifest import Manifest

BLOCK_SIZE = 65_536


def rank_splits(names: Sequence[str]) -> np.ndarray:
    """Returns a rank per split; of several copies, the one in the split of the lowest rank stays.

    Evaluation splits come before train, so that test sets stay complete.
    """
    ordered = sorted(names, key=lambda name: (name == "train", split_rank(name)))
    return np.array([ordered.index(name) for name in names], dtype=np.uint8)


def find_copies(digests: np.ndarray, ranks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the indices of images with the bytes of another one, ascending, and the index of each copy's original.

    Args:
        digests: Digests of the images' bytes, shape `(num_images,)`, dtype V16.
        ranks: Among equal images, the first one of the lowest rank is the original; shape `(num_images,)`.
    """
    if len(digests) < 2:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    halves = np.ascontiguousarray(digests).view(np.uint64).reshape(-1, 2)
    suspects = find_repeated(halves[:, 0])
    order = suspects[np.lexsort((suspects, ranks[suspects], halves[suspects, 1], halves[suspects, 0]))]
    begins = np.ones(len(order), dtype=bool)
    begins[1:] = (halves[order[1:]] != halves[order[:-1]]).any(axis=1)
    originals = order[np.maximum.accumulate(np.where(begins, np.arange(len(order)), 0))]
    copies, originals = order[~begins], originals[~begins]
    ascending = np.argsort(copies)
    return copies[ascending], originals[ascending]


def find_repeated(values: np.ndarray) -> np.ndarray:
    """Returns the indices, ascending, of values that occur more than once; needs memory for one copy of the values."""
    ordered = np.sort(values)
    repeated = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    del ordered
    found = [np.zeros(0, dtype=np.int64)]
    for start in range(0, len(values), BLOCK_SIZE):
        block = values[start : start + BLOCK_SIZE]
        found.append(start + np.flatnonzero(np.isin(block, repeated)))
    return np.concatenate(found)


@dataclass(frozen=True, kw_only=True)
class HashWork:
    """Hashes the images of some rows, in any process."""

    folder: Path
    images: Images
    num_rows: int
    resize: int | None
    max_pixels: int

    def __call__(self, job: int, advance: Advance) -> tuple[int, bytes]:
        rows = np.arange(job * CHUNK_SIZE, min((job + 1) * CHUNK_SIZE, self.num_rows))
        digests = []
        for row, data in zip(rows.tolist(), self.images.read(*read_names(self.folder, rows)), strict=True):
            # a bad image is no copy of another bad one
            digests.append(self._digest(data) or row.to_bytes(DIGEST_BYTES, "big"))
            advance(1)
        return job, b"".join(digests)

    def _digest(self, data: bytes) -> bytes | None:
        """Returns the digest of an image as it would be stored; None if it is bad."""
        try:
            data = check_image(data, self.resize, self.max_pixels).data if self.resize else data
        except BadImage:
            return None
        return digest_image(data) if data else None


def drop_copies(
    folder: Path,
    numbers: np.ndarray,
    splits: Sequence[str],
    images: Images,
    existing: Manifest | None,
    resize: int | None,
    max_pixels: int,
    workers: int,
) -> None:
    """Drops rows whose image, as it would be stored, is a copy of another one: changes their split numbers to `DROPPED`, and
    lists them in `dropped.csv` beside the row tables. Images of the set that the rows join are originals.
    """
    work = HashWork(folder=folder, images=images, num_rows=len(numbers), resize=resize, max_pixels=max_pixels)
    jobs = range(-(-len(numbers) // CHUNK_SIZE))
    hashed = dict(run_jobs(work, jobs, workers, len(numbers), "images hashed"))
    digests = np.frombuffer(b"".join(hashed[job] for job in jobs), dtype="V16")
    ranks = rank_splits(splits)[numbers] + np.uint8(1)
    before = existing.digests() if existing else digests[:0]
    ranks_before = np.zeros(len(before), dtype=np.uint8)
    copies, originals = find_copies(np.concatenate([before, digests]), np.concatenate([ranks_before, ranks]))
    is_new = copies >= len(before)
    copies, originals = copies[is_new] - len(before), originals[is_new] - len(before)
    if len(copies):
        write_dropped(folder, copies, originals, existing)
        print(f"left out {len(copies):,} copies: they are listed in {DROPPED_FILE}", file=sys.stderr)
    numbers[copies] = DROPPED


def write_dropped(folder: Path, copies: np.ndarray, originals: np.ndarray, existing: Manifest | None) -> None:
    """Lists dropped copies, given as rows, ascending, and the row of each copy's original. An original below zero is a sample
    of the existing set, counted from its end.
    """
    rows = np.union1d(copies, originals[originals >= 0])
    name_of = dict(zip(rows.tolist(), read_names(folder, rows)[0], strict=True))
    if existing and (originals < 0).any():
        paths = existing.sample_columns("path").column(0)
        name_of |= {row: paths[row + len(paths)].as_py() for row in np.unique(originals[originals < 0]).tolist()}
    with (folder / DROPPED_FILE).open("w", encoding="utf-8", errors="surrogateescape") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(("copy", "of"))
        lines.writerows(
            (name_of[copy], name_of[of]) for copy, of in zip(copies.tolist(), originals.tolist(), strict=True)
        )
