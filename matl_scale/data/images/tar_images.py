"""Images in tars, from WebDataset or elsewhere: listed once by the tars' headers, then read by offset."""

import os
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from matl_scale.data.images.interface import in_chunks
from matl_scale.errors import InputError


@dataclass(frozen=True, kw_only=True)
class TarImages:
    """The image members of some tars. An image is named by its tar and its member, joined by a slash."""

    root: str  # what the user gave
    files: list[Path]  # the tars
    members: list[str] = field(repr=False)  # name of each image
    # index of each image's tar, and its offset and size in bytes, shape `(num_images, 3)`
    ranges: np.ndarray = field(repr=False)

    def names(self) -> Iterator[tuple[list[str], np.ndarray]]:
        """Yields all names in chunks, tar after tar."""
        yield from in_chunks(self.members)

    def read(self, names: Sequence[str], indices: np.ndarray) -> Iterator[bytes]:  # noqa: ARG002
        opened: dict[int, int] = {}
        try:
            for tar, offset, size in self.ranges[indices].tolist():
                if tar not in opened:
                    opened[tar] = os.open(self.files[tar], os.O_RDONLY)
                yield os.pread(opened[tar], size, offset)
        finally:
            for descriptor in opened.values():
                os.close(descriptor)


def open_tar_images(files: Sequence[Path], root: str, suffixes: tuple[str, ...]) -> TarImages:
    """Lists the images of uncompressed tars.

    Raises:
        InputError: A tar is damaged, compressed or unreadable, or none holds an image.
    """
    members: list[str] = []
    ranges: list[tuple[int, int, int]] = []
    for index, path in enumerate(files):
        try:
            with tarfile.open(path, "r:") as tar:
                found = [entry for entry in tar if entry.isfile() and entry.name.lower().endswith(suffixes)]
                check_end(path, tar.offset)
        except (tarfile.TarError, OSError, ValueError) as error:
            raise InputError(f"{path} cannot be read as an uncompressed tar: {error}.") from error
        members += [f"{path.name}/{entry.name}" for entry in found]
        ranges += [(index, entry.offset_data, entry.size) for entry in found]
    if not members:
        raise InputError(f"{root} holds no tar with images ({', '.join(suffixes)}).")
    return TarImages(root=root, files=list(files), members=members, ranges=np.array(ranges, dtype=np.int64))


def check_end(path: Path, end: int) -> None:
    """Raises `tarfile.ReadError` if a tar does not end properly: tarfile mistakes a damaged header for the end."""
    with path.open("rb") as file:
        file.seek(end)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError(f"it is damaged or cut off at byte {end:,}")
