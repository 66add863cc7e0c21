"""What an image source offers: the names of its images, and their bytes."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Protocol

import numpy as np

from matl_scale.data.images.file_kinds import PassedOver

CHUNK_SIZE = 16_384  # images whose names are handled at once
RUN_AGAIN = "What is finished is kept: run the same command again."


class Images(Protocol):
    """Reads encoded images. Worker processes get copies, so it has to be small when it is pickled."""

    @property
    def root(self) -> str:
        """Where the names are to be looked up, for error messages."""
        ...

    def read(self, names: Sequence[str], indices: np.ndarray) -> Iterator[bytes]:
        """Yields some encoded images in order, empty bytes for a missing one.

        Args:
            names: Their names.
            indices: Their indices in the source, ascending.
        """
        ...


class ListedImages(Images, Protocol):
    """Images that know their names."""

    def names(self, passed_over: PassedOver | None = None) -> Iterator[tuple[list[str], np.ndarray]]:
        """Yields all names in chunks, always in the same order, each with the indices to read them by.

        Args:
            passed_over: Counts what is there and is not taken as an image.
        """
        ...


def in_chunks(names: Iterable[str]) -> Iterator[tuple[list[str], np.ndarray]]:
    """Yields names in chunks of `CHUNK_SIZE`, each with their indices."""
    start, remaining = 0, iter(names)
    while chunk := list(islice(remaining, CHUNK_SIZE)):
        yield chunk, np.arange(start, start + len(chunk))
        start += len(chunk)
