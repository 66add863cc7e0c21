"""Images in tars, WebDataset's or any others: listed once by their headers, then read by offset."""

import os
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from matl_scale.data.images.interface import CHUNK_ROWS
from matl_scale.errors import InputError


@dataclass(frozen=True, kw_only=True)
class TarImages:
    """The image members of some tars; an image's name is that of its tar and its own, joined by a slash.

    Attributes:
        place: What the user gave.
        files: The tars.
        members: Name of each image.
        places: Number of its tar, offset and size, shape `(num_images, 3)`.
    """

    place: str
    files: list[Path]
    members: list[str] = field(repr=False)
    places: np.ndarray = field(repr=False)

    def names(self) -> Iterator[tuple[list[str], np.ndarray]]:
        """Yields all names in chunks, tar after tar."""
        for start in range(0, len(self.members), CHUNK_ROWS):
            part = self.members[start : start + CHUNK_ROWS]
            yield part, np.arange(start, start + len(part))

    def read(self, names: Sequence[str], sources: np.ndarray) -> Iterator[bytes]:  # noqa: ARG002
        """Yields the encoded images, by their numbers."""
        opened: dict[int, int] = {}
        try:
            for tar, offset, size in self.places[sources].tolist():
                if tar not in opened:
                    opened[tar] = os.open(self.files[tar], os.O_RDONLY)
                yield os.pread(opened[tar], size, offset)
        finally:
            for descriptor in opened.values():
                os.close(descriptor)


def open_tar_images(files: Sequence[Path], place: str, suffixes: tuple[str, ...]) -> TarImages:
    """Lists the images of uncompressed tars.

    Raises:
        InputError: One is damaged, compressed or cannot be read, or none holds an image.
    """
    members: list[str] = []
    places: list[tuple[int, int, int]] = []
    for number, path in enumerate(files):
        try:
            with tarfile.open(path, "r:") as tar:
                found = [entry for entry in tar if entry.isfile() and entry.name.lower().endswith(suffixes)]
                check_end(path, tar.offset)
        except (tarfile.TarError, OSError, ValueError) as error:
            raise InputError(f"{path} cannot be read as a tar that is not compressed: {error}.") from error
        members += [f"{path.name}/{entry.name}" for entry in found]
        places += [(number, entry.offset_data, entry.size) for entry in found]
    if not members:
        raise InputError(f"{place} holds no tar with images ({', '.join(suffixes)}).")
    return TarImages(place=place, files=list(files), members=members, places=np.array(places, dtype=np.int64))


def check_end(path: Path, end: int) -> None:
    """Raises `tarfile.ReadError` where a tar does not end as it should: tarfile takes a damaged header for the end."""
    with path.open("rb") as file:
        file.seek(end)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError(f"it is damaged or cut off at byte {end:,}")
