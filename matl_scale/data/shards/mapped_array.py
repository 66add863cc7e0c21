"""Arrays mapped from files: all processes of a node that map a file share its pages."""

from pathlib import Path
from typing import Any

import numpy as np


class MappedArray(np.memmap):
    """An array in a file. A process that gets a copy of it by pickle maps the file too."""

    def __reduce__(self) -> Any:
        mapped = self._mmap  # type: ignore[attr-defined]
        if mapped is None or self.nbytes != len(mapped) or not self.flags.c_contiguous:  # not the file's whole array
            return super().__reduce__()
        return map_array, (Path(str(self.filename)), self.dtype, self.shape)


def map_array(path: Path, dtype: np.dtype, shape: tuple[int, ...] = (-1,)) -> np.ndarray:
    """Maps a file of numbers as an array that cannot be written."""
    if not path.stat().st_size:
        return np.zeros(0, dtype=dtype).reshape(shape)
    return MappedArray(path, dtype=dtype, mode="r").reshape(shape)
