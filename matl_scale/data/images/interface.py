"""What an image source offers: the names of its images, and their bytes."""

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

CHUNK_ROWS = 16_384


class Images(Protocol):
    """Reads encoded images. Worker processes get copies, so it has to be small when it is pickled."""

    @property
    def place(self) -> str:
        """Where the names are to be looked for, for error messages."""
        ...

    def read(self, names: Sequence[str], sources: np.ndarray) -> Iterator[bytes]:
        """Yields the encoded images of some rows, in order; empty bytes where there is none."""
        ...


class ListedImages(Images, Protocol):
    """Images that know their names."""

    def names(self) -> Iterator[tuple[list[str], np.ndarray]]:
        """Yields all names in chunks, always in the same order, with the numbers to read them by."""
        ...
