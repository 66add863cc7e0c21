"""Which samples carry a label for one of several tasks, for each of some groups of tasks: a bit for each sample.

Of many samples, the bits are in a cache, the *route cache*, that all processes of a node map into memory: marking ten billion
labels takes minutes.
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from matl_scale.data.shards.cache_folder import FORMAT_VERSION, CacheKind
from matl_scale.data.shards.labels import Labels
from matl_scale.data.shards.mapped_array import map_array
from matl_scale.storage.files import as_json, file_sha256
from matl_scale.storage.store import Store

ROUTES = CacheKind(what="routes", name="route cache", needed="bits.bin")
BLOCK = 256  # samples whose marks are counted together
BITS, ENDS = np.dtype(np.uint8), np.dtype(np.uint32)


@dataclass(frozen=True)
class Marks:
    """The samples that are marked for each group.

    Attributes:
        bits: A bit for each sample, `BLOCK` samples after `BLOCK` samples, shape `(num_groups, num_blocks, BLOCK // 8)`.
        ends: How many are marked up to the end of each block, shape `(num_groups, num_blocks)`.
    """

    bits: np.ndarray
    ends: np.ndarray

    def count(self, group: int) -> int:
        """Returns the number of samples that are marked for a group."""
        return int(self.ends[group, -1]) if self.ends.shape[1] else 0

    def find(self, group: int, numbers: np.ndarray) -> np.ndarray:
        """Returns the indices of the marked samples with some numbers, each from 0 to the group's count − 1."""
        ends = np.asarray(self.ends[group])
        blocks = np.searchsorted(ends, numbers, side="right")
        before = np.where(blocks > 0, ends[blocks - 1], 0)
        counts = np.cumsum(np.unpackbits(np.asarray(self.bits[group])[blocks], axis=1), axis=1, dtype=np.int16)
        return np.asarray(blocks * BLOCK + (counts > (numbers - before)[:, None]).argmax(axis=1))


def mark_labelled(labels: Labels, groups: Sequence[Sequence[int]]) -> Marks:
    """Marks the samples with a label for one of the tasks of each group, in memory."""
    packed = [pack(labels.has_label(tasks)) for tasks in groups]
    return Marks(np.stack([bits for bits, _ in packed]), np.stack([ends for _, ends in packed]))


@dataclass(frozen=True)
class RouteCache:
    """The route cache of a set, in or for its folder."""

    root: Store

    def open(self, labels: Labels, groups: Sequence[Sequence[int]]) -> tuple[Marks | None, list[str]]:
        """Opens the marks of labels of the set's files, and makes them if there are none or they cannot be used.

        Args:
            labels: The labels of some samples of the set; their `origin` is known.
            groups: The tasks of each group.

        Returns:
            The marks, None if no folder can be written, and what the user should know, in lines.
        """
        sha256 = identify(labels, groups)

        def write(folder: Path) -> None:
            ROUTES.complete(folder, sha256, write_marks(folder, labels, groups))

        folder, notes = ROUTES.open(self.root, sha256, write)
        if folder is None:
            return None, notes
        num_blocks = -(-labels.num_samples // BLOCK)
        bits = map_array(folder / "bits.bin", BITS, (len(groups), num_blocks, BLOCK // 8))
        ends = map_array(folder / "ends.bin", ENDS, (len(groups), num_blocks))
        return Marks(bits, ends), notes


def write_marks(folder: Path, labels: Labels, groups: Sequence[Sequence[int]]) -> dict[str, str]:
    """Writes the files of a cache, one group after the other. Returns the hash of each."""
    with (folder / "bits.bin").open("wb") as bits_file, (folder / "ends.bin").open("wb") as ends_file:
        for tasks in groups:
            bits, ends = pack(labels.has_label(tasks))
            bits_file.write(bits.data)
            ends_file.write(ends.data)
        for file in (bits_file, ends_file):
            file.flush()
            os.fsync(file.fileno())
    return {name: file_sha256(folder / name) for name in ("bits.bin", "ends.bin")}


def pack(marks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns `bits` and `ends` (see `Marks`) of one group, from bools of shape `(num_samples,)`."""
    padded = np.zeros((-(-len(marks) // BLOCK), BLOCK), dtype=bool)
    padded.ravel()[: len(marks)] = marks
    return np.packbits(padded, axis=1), np.cumsum(np.count_nonzero(padded, axis=1)).astype(ENDS)


def identify(labels: Labels, groups: Sequence[Sequence[int]]) -> str:
    """Returns a hash of all that marks follow from."""
    assert labels.origin, "marks of labels in memory alone cannot be cached"
    arrays = [labels.store_of, labels.column_of, labels.samples.starts, labels.samples.stops]
    content = [
        [FORMAT_VERSION, BLOCK],
        labels.origin,
        [list(tasks) for tasks in groups],
        [len(array) for array in arrays],
    ]
    digest = hashlib.sha256(as_json(content).encode())
    for array in arrays:
        digest.update(np.ascontiguousarray(array, dtype=np.int64).data)
    return digest.hexdigest()
