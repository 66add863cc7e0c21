"""Finds rows by name among millions, with 16 bytes for each: names are compared by a 64-bit hash of this process.

Two names among ten million share a hash with a chance of 3 in a million; duplicates are looked up by the names themselves
before they are complained about.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import PurePosixPath

import numpy as np

from matl_scale.errors import InputError, shortened


def hash_names(names: Sequence[str]) -> np.ndarray:
    """Returns a hash of each name, int64, shape `(num_names,)`: equal within this process only."""
    return np.fromiter(map(hash, names), dtype=np.int64, count=len(names))


class NameIndex:
    """Row numbers by name.

    Args:
        chunks: Yields the names in order, in chunks; called again only to name duplicates.
        what: What the names are, for error messages.

    Raises:
        InputError: A name occurs more than once.
    """

    def __init__(self, chunks: Callable[[], Iterator[Sequence[str]]], what: str) -> None:
        hashes = [hash_names(names) for names in chunks()]
        every = np.concatenate(hashes) if hashes else np.zeros(0, dtype=np.int64)
        del hashes
        self.order = np.argsort(every, kind="stable").astype(np.uint32 if len(every) < 2**32 else np.int64)
        self.hashes = every[self.order]
        del every
        again = self.hashes[1:] == self.hashes[:-1]
        if again.any():
            check_repeated(set(self.hashes[1:][again].tolist()), chunks(), what)

    def __len__(self) -> int:
        return len(self.order)

    def find(self, names: Sequence[str]) -> np.ndarray:
        """Returns the row of each name, or of the name without its extension; −1 where there is neither."""
        rows = self._find(hash_names(names))
        unknown = np.flatnonzero(rows < 0).tolist()
        if unknown and len(self):
            stems = [PurePosixPath(names[i]).with_suffix("").as_posix() if names[i] else "" for i in unknown]
            rows[unknown] = self._find(hash_names(stems))
        return rows

    def _find(self, hashes: np.ndarray) -> np.ndarray:
        if not len(self):
            return np.full(len(hashes), -1)
        places = np.minimum(np.searchsorted(self.hashes, hashes), len(self) - 1)
        return np.where(self.hashes[places] == hashes, self.order[places].astype(np.int64), -1)


def check_repeated(suspects: set[int], chunks: Iterable[Sequence[str]], what: str) -> None:
    """Raises `InputError` with the names of suspected hashes that really occur more than once."""
    seen: set[str] = set()
    repeated: dict[str, None] = {}
    for names in chunks:
        for name in names:
            if hash(name) in suspects:
                if name in seen:
                    repeated[name] = None
                seen.add(name)
    if repeated:
        raise InputError(
            f"Every {what} should be unique. {len(repeated)} occur more than once: {shortened(sorted(repeated))}. "
            "Rename or remove the copies."
        )
