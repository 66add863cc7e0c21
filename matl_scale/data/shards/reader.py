"""Reads single samples out of the tars by the manifest's offsets. Never hands out a wrong sample: the tar header before each
image has to carry the key that the manifest expects there."""

import os
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from matl_scale.data.shards.layout import HEADER_BYTES, member_name, sample_key
from matl_scale.data.shards.manifest import Manifest
from matl_scale.errors import InputError

MAX_OPEN_SHARDS = 64


class Damage(NamedTuple):
    """A sample that cannot be used: its row, its shard's file, its key, and why."""

    row: int
    file: str
    key: str
    reason: str

    def __str__(self) -> str:
        return f"{self.file}, sample {self.key}: {self.reason}"


class SampleReader:
    """Random access to the encoded images of a shard set, local or remote. Can be pickled; opens files when it needs them."""

    def __init__(self, manifest: Manifest) -> None:
        self.store = manifest.root
        self._files: list[str] = manifest.shards["file"].to_pylist()
        columns = manifest.sample_columns("key", "offset", "size", "extension")
        self._shard = manifest.shard_of_rows()
        try:
            self._key = columns["key"].cast(pa.int64()).to_numpy()
        except pa.ArrowInvalid as error:
            raise InputError(f"{manifest.root}: keys of samples should be numbers: {error}.") from error
        self._offset = columns["offset"].to_numpy()
        self._size = columns["size"].to_numpy()
        ends = manifest.shards["bytes"].to_numpy()[self._shard]
        inside = (self._offset >= HEADER_BYTES) & (self._size >= 0) & (self._size <= ends - self._offset)
        if not inside.all():
            raise InputError(
                f"{manifest.root}/{manifest.tables['samples']}: {int((~inside).sum())} samples lie outside their tar. Prepare "
                "the set again."
            )
        extensions = columns["extension"].combine_chunks().dictionary_encode()
        self._extension = extensions.indices.to_numpy()
        self._extensions: list[str] = extensions.dictionary.to_pylist()
        self._open: OrderedDict[int, int] = OrderedDict()  # shard → file descriptor

    def read(self, rows: np.ndarray) -> list[bytes | Damage]:
        """Reads the images of some rows, in order: encoded bytes, or what is wrong with the sample."""
        shards, offsets, sizes = self._shard[rows], self._offset[rows], self._size[rows]
        starts = offsets - HEADER_BYTES
        names = [
            member_name(sample_key(key), self._extensions[extension]).encode()
            for key, extension in zip(self._key[rows].tolist(), self._extension[rows].tolist(), strict=True)
        ]
        read = self._read_local if self.store.local is not None else self._read_remote
        blocks = read(shards.tolist(), starts.tolist(), sizes.tolist())
        return [
            block[HEADER_BYTES:]
            if isinstance(block, bytes)
            and len(block) == HEADER_BYTES + size
            and block.startswith(name)
            and block[len(name)] == 0
            else self._describe(row, block, name, size)
            for row, block, name, size in zip(rows.tolist(), blocks, names, sizes.tolist(), strict=True)
        ]

    def key(self, row: int) -> str:
        """Returns the key of a sample."""
        return sample_key(int(self._key[row]))

    def keys(self, rows: np.ndarray) -> np.ndarray:
        """Returns the keys of samples as numbers."""
        return self._key[rows]

    def size(self, row: int) -> int:
        """Returns the size of a sample's image in bytes."""
        return int(self._size[row])

    def damage(self, row: int, reason: str) -> Damage:
        """Describes a sample that cannot be used."""
        return Damage(row, self._files[self._shard[row]], self.key(row), reason)

    def _read_local(
        self, shards: Sequence[int], starts: Sequence[int], sizes: Sequence[int]
    ) -> list[bytes | Exception]:
        blocks: list[bytes | Exception] = []
        for shard, start, size in zip(shards, starts, sizes, strict=True):
            try:
                # pread: forked workers share the position of a file that was open before the fork
                blocks.append(os.pread(self._file(shard), HEADER_BYTES + size, start))
            except OSError as error:
                blocks.append(error)
        return blocks

    def _read_remote(
        self, shards: Sequence[int], starts: Sequence[int], sizes: Sequence[int]
    ) -> list[bytes | Exception]:
        ends = [start + HEADER_BYTES + size for start, size in zip(starts, sizes, strict=True)]
        return self.store.read_ranges([self._files[shard] for shard in shards], starts, ends)

    def _describe(self, row: int, block: bytes | Exception, name: bytes, size: int) -> Damage:
        if isinstance(block, Exception):
            return self.damage(row, f"cannot be read ({block})")
        found = block[:100].rstrip(b"\0")
        expected = name.decode()
        if found == name:
            return self.damage(row, f"the tar ends inside it ({len(block)} of {HEADER_BYTES + size} bytes)")
        return self.damage(
            row, f"the tar should hold {expected} here, and holds {found[:40]!r}: is the manifest of another set?"
        )

    def _file(self, shard: int) -> int:
        if shard in self._open:
            self._open.move_to_end(shard)
            return self._open[shard]
        self._open[shard] = os.open(self.store.local_file(self._files[shard]), os.O_RDONLY)
        if len(self._open) > MAX_OPEN_SHARDS:
            os.close(self._open.popitem(last=False)[1])
        return self._open[shard]

    def __del__(self) -> None:
        for descriptor in getattr(self, "_open", {}).values():
            os.close(descriptor)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_open": OrderedDict()}
