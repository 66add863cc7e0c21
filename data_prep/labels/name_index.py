"""Finds rows by name among millions, with 16 bytes per row: names are compared by a 64-bit hash of this process.

The chance that two of ten million names share a hash is 3 in a million; suspected duplicates are confirmed by the names
themselves.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import PurePosixPath

import numpy as np

from matl_scale.errors import InputError, shortened


def hash_names(names: Sequence[str]) -> np.ndarray:
    """Returns a hash of each name, int64, shape `(num_names,)`: equal within this process only."""
    return np.fromiter(map(hash, names), dtype=np.int64, count=len(names))


class NameIndex:
    """Finds row numbers by name. `chunks` yields the names in order, and is called a second time only to name duplicates.

    Raises:
        InputError: A name occurs more than once; the message says `what` a name is.
    """

    def __init__(self, chunks: Callable[[], Iterator[Sequence[str]]], what: str) -> None:
        hashes = [hash_names(names) for names in chunks()]
        joined = np.concatenate(hashes) if hashes else np.zeros(0, dtype=np.int64)
        del hashes
        self.order = np.argsort(joined, kind="stable").astype(np.uint32 if len(joined) < 2**32 else np.int64)
        self.hashes = joined[self.order]
        del joined
        is_repeated = self.hashes[1:] == self.hashes[:-1]
        if is_repeated.any():
            check_repeated(set(self.hashes[1:][is_repeated].tolist()), chunks(), what)

    def __len__(self) -> int:
        return len(self.order)

    def find(self, names: Sequence[str]) -> np.ndarray:
        """Returns the row of each name, or else of the name without its extension; −1 if neither exists."""
        rows = self._find(hash_names(names))
        unknown = np.flatnonzero(rows < 0).tolist()
        if unknown and len(self):
            stems = [PurePosixPath(names[i]).with_suffix("").as_posix() if names[i] else "" for i in unknown]
            rows[unknown] = self._find(hash_names(stems))
        return rows

    def _find(self, hashes: np.ndarray) -> np.ndarray:
        if not len(self):
            return np.full(len(hashes), -1)
        found = np.minimum(np.searchsorted(self.hashes, hashes), len(self) - 1)
        return np.where(self.hashes[found] == hashes, self.order[found].astype(np.int64), -1)


def check_repeated(suspects: set[int], chunks: Iterable[Sequence[str]], what: str) -> None:
    """Raises `InputError` if names really occur more than once; `suspects` are the hashes that do."""
    check_unique((name for names in chunks for name in names if hash(name) in suspects), what)


def check_unique(names: Iterable[str], what: str) -> None:
    """Raises `InputError` with the first names that occur more than once."""
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise InputError(
            f"Every {what} should be unique. {len(repeated)} occur more than once: {shortened(sorted(repeated))}. "
            "Rename or remove the copies."
        )
