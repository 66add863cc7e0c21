"""Reads single samples from the tars by the manifest's offsets. It never returns a wrong sample: the tar header before each
image has to hold the key that the manifest expects there."""

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from matl_scale.data.shards.layout import HEADER_BYTES, member_name, sample_key
from matl_scale.data.shards.manifest import Manifest
from matl_scale.data.shards.tables import as_numbers
from matl_scale.errors import InputError
from matl_scale.storage.ranges import RangeReader


class Damage(NamedTuple):
    """A sample that cannot be used: its id, its shard's file, its key, and why."""

    sample_id: int
    file: str
    key: str
    reason: str
    is_unread: bool = False  # whether reading failed, which may work another time; else the bytes are wrong

    def __str__(self) -> str:
        return f"{self.file}, sample {self.key}: {self.reason}"


class SampleReader:
    """Random access to the encoded images of a shard set, local or remote. Can be pickled; opens files when needed."""

    def __init__(self, manifest: Manifest) -> None:
        self._ranges = RangeReader(manifest.root)
        self._files: list[str] = manifest.shards["file"].to_pylist()
        columns = manifest.sample_columns("key", "offset", "size", "extension")
        self._shard = manifest.shard_of_samples()
        try:
            self._key = as_numbers(columns["key"].cast(pa.int64()))
        except pa.ArrowInvalid as error:
            raise InputError(f"{manifest.root}: keys of samples should be numbers: {error}.") from error
        self._offset = as_numbers(columns["offset"])
        self._size = as_numbers(columns["size"])
        ends = as_numbers(manifest.shards["bytes"])[self._shard]
        inside = (self._offset >= HEADER_BYTES) & (self._size >= 0) & (self._size <= ends - self._offset)
        if not inside.all():
            raise InputError(
                f"{manifest.root}/{manifest.tables['samples']}: {int((~inside).sum())} samples lie outside their tar. Prepare "
                "the set again."
            )
        extensions = columns["extension"].combine_chunks().dictionary_encode()
        self._extension = np.from_dlpack(extensions.indices)
        self._extensions: list[str] = extensions.dictionary.to_pylist()

    def read(self, sample_ids: np.ndarray) -> list[bytes | Damage]:
        """Reads the images of some samples, in order: the encoded bytes, or what is wrong with the sample."""
        shards, starts = self._shard[sample_ids], self._offset[sample_ids] - HEADER_BYTES
        sizes = self._size[sample_ids]
        names = [
            member_name(sample_key(key), self._extensions[extension]).encode()
            for key, extension in zip(self._key[sample_ids].tolist(), self._extension[sample_ids].tolist(), strict=True)
        ]
        files = [self._files[shard] for shard in shards.tolist()]
        blocks = self._ranges.read(files, starts.tolist(), (sizes + HEADER_BYTES).tolist())
        return [
            block[HEADER_BYTES:]
            if isinstance(block, bytes) and len(block) == HEADER_BYTES + size and block.startswith(name + b"\0")
            else self._describe(sample_id, block, name, size)
            for sample_id, block, name, size in zip(sample_ids.tolist(), blocks, names, sizes.tolist(), strict=True)
        ]

    def key(self, sample_id: int) -> str:
        """Returns the key of a sample."""
        return sample_key(int(self._key[sample_id]))

    def keys(self, sample_ids: np.ndarray) -> np.ndarray:
        """Returns the keys of samples as numbers."""
        return np.asarray(self._key[sample_ids])

    def size(self, sample_id: int) -> int:
        """Returns the size of a sample's image in bytes."""
        return int(self._size[sample_id])

    def damage(self, sample_id: int, reason: str, *, is_unread: bool = False) -> Damage:
        """Describes a sample that cannot be used."""
        return Damage(sample_id, self._files[self._shard[sample_id]], self.key(sample_id), reason, is_unread)

    def _describe(self, sample_id: int, block: bytes | Exception, name: bytes, size: int) -> Damage:
        if isinstance(block, Exception):
            return self.damage(sample_id, f"cannot be read ({block})", is_unread=True)
        found = block[:100].rstrip(b"\0")
        expected = name.decode()
        if found == name:
            return self.damage(sample_id, f"the tar ends inside it ({len(block)} of {HEADER_BYTES + size} bytes)")
        return self.damage(
            sample_id, f"the tar should hold {expected} here, and holds {found[:40]!r}: is the manifest of another set?"
        )
