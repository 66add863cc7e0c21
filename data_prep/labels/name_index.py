"""Finds rows by name among millions, with 16 bytes per row: names are compared by a 64-bit hash of this process.

The chance that two of ten million names share a hash is 3 in a million; suspected duplicates are confirmed by the names
themselves.
"""

import posixpath
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np

from data_prep.labels.white_space import trim
from matl_scale.errors import InputError, shortened

SPECIAL = re.compile(r"^\s|\s$|\\|//|(^|/)\.\.?(/|$)")

# one of these is in the names of a chunk, joined by zero bytes, if one of them may not be plain
MARKS = ("\\", "//", "./", "/.", "\0.", " \0", "\0 ", *"\t\n\r\v\f\x1c\x1d\x1e\x1f")


def hash_names(names: Sequence[str]) -> np.ndarray:
    """Returns a hash of each name, int64, shape `(num_names,)`: equal within this process only."""
    return np.fromiter(map(hash, names), dtype=np.int64, count=len(names))


def plain_name(name: str) -> str:
    """Returns the form by which names that differ in writing only are equal: composed Unicode (macOS stores `é` as two
    characters), `/` for a backslash, no `./`, no doubled slash, no blanks around it. Case and ending stay.
    """
    if name.isascii() and not SPECIAL.search(name):
        return name
    name = trim(unicodedata.normalize("NFC", name)).replace("\\", "/")
    return posixpath.normpath(name) if name else name


def are_plain(names: Sequence[str]) -> bool:
    """Returns True only if `plain_name` changes none of the names; much faster than to ask it for each."""
    text = "\0".join(["", *names, ""])
    return text.isascii() and not any(mark in text for mark in MARKS)


class HashIndex(NamedTuple):
    """Sorted hashes of names and the row of each."""

    hashes: np.ndarray
    order: np.ndarray

    def find(self, hashes: np.ndarray) -> np.ndarray:
        """Returns the row of each hash, −1 if there is none."""
        if not len(self.hashes):
            return np.full(len(hashes), -1)
        found = np.minimum(np.searchsorted(self.hashes, hashes), len(self.hashes) - 1)
        return np.where(self.hashes[found] == hashes, self.order[found].astype(np.int64), -1)


def sort_hashes(hashes: np.ndarray) -> HashIndex:
    order = np.argsort(hashes, kind="stable").astype(np.uint32 if len(hashes) < 2**32 else np.int64)
    return HashIndex(hashes[order], order)


class NameIndex:
    """Finds row numbers by name. `chunks` yields the names in order, and is called a second time only to name duplicates.

    Raises:
        InputError: A name occurs more than once; the message says `what` a name is.
    """

    def __init__(self, chunks: Callable[[], Iterator[Sequence[str]]], what: str) -> None:
        hashes, plain = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
        for names in chunks():
            hashes.append(hash_names(names))
            plain.append(hashes[-1] if are_plain(names) else hash_names(list(map(plain_name, names))))
        is_plain = all(a is b for a, b in zip(hashes[1:], plain[1:], strict=True))
        self._exact = sort_hashes(np.concatenate(hashes))
        del hashes
        is_repeated = self._exact.hashes[1:] == self._exact.hashes[:-1]
        if is_repeated.any():
            check_repeated(set(self._exact.hashes[1:][is_repeated].tolist()), chunks(), what)
        self._plain = self._exact if is_plain else without_repeated(sort_hashes(np.concatenate(plain)))

    def __len__(self) -> int:
        return len(self._exact.order)

    def find(self, names: Sequence[str]) -> np.ndarray:
        """Returns the row of each name, −1 if there is none: the row of that very name, or else of the name without its
        extension, or else of a name that differs in writing only (see `plain_name`), if there is one alone.
        """
        rows = self._exact.find(hash_names(names))
        for index, change in ((self._exact, without_ending), (self._plain, plain_name), (self._plain, plain_stem)):
            unknown = np.flatnonzero(rows < 0).tolist()
            if not unknown or not len(self):
                break
            rows[unknown] = index.find(hash_names([change(names[i]) for i in unknown]))
        return rows


def without_repeated(index: HashIndex) -> HashIndex:
    """Leaves out hashes of several rows: which of them is meant is not known."""
    is_same = index.hashes[1:] == index.hashes[:-1]
    alone = ~(np.append(is_same, False) | np.insert(is_same, 0, False))
    return HashIndex(index.hashes[alone], index.order[alone])


def without_ending(name: str) -> str:
    return PurePosixPath(name).with_suffix("").as_posix() if name else ""


def plain_stem(name: str) -> str:
    return without_ending(plain_name(name))


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
