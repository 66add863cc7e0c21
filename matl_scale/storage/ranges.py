"""Reads byte ranges of many files of a store."""

import os
from collections import OrderedDict
from collections.abc import Sequence

from matl_scale.storage.store import Store

MAX_OPEN_FILES = 64


class RangeReader:
    """Random access to the files of a store. Local files stay open, the ones used last; remote ranges are fetched together.

    Can be pickled and survives a fork.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._open: OrderedDict[str, int] = OrderedDict()  # name → file descriptor

    def read(self, names: Sequence[str], starts: Sequence[int], sizes: Sequence[int]) -> list[bytes | Exception]:
        """Returns `sizes[i]` bytes of file `names[i]` from offset `starts[i]`, or what went wrong; fewer at a file's end."""
        if self.store.local is not None:
            return [self._read_local(*request) for request in zip(names, starts, sizes, strict=True)]
        ends = [start + size for start, size in zip(starts, sizes, strict=True)]
        return self.store.read_ranges(names, starts, ends)

    def _read_local(self, name: str, start: int, size: int) -> bytes | Exception:
        try:
            # pread: forked workers share the position of a file that was open before the fork
            return os.pread(self._descriptor(name), size, start)
        except OSError as error:
            return error

    def _descriptor(self, name: str) -> int:
        if name in self._open:
            self._open.move_to_end(name)
            return self._open[name]
        self._open[name] = os.open(self.store.local_file(name), os.O_RDONLY)
        if len(self._open) > MAX_OPEN_FILES:
            os.close(self._open.popitem(last=False)[1])
        return self._open[name]

    def __del__(self) -> None:
        for descriptor in getattr(self, "_open", {}).values():
            os.close(descriptor)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_open": OrderedDict()}
