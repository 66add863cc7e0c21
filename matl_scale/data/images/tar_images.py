"""Images in tars, from WebDataset or elsewhere: listed once by the tars' headers, then read by offset.

An image is named `TAR/MEMBER`, as `train-000.tar/a/0001.jpg`: the tar's file name without folders, and the member's name without
a leading `./` or `/`. As when a tar is unpacked, links are what they point to, and of members of one name the last counts.
"""

import os
import posixpath
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from matl_scale.data.images.file_kinds import (
    BROKEN_LINK,
    IMAGE_SUFFIXES,
    START_BYTES,
    PassedOver,
    kind_by_content,
    kind_by_name,
)
from matl_scale.data.images.interface import in_chunks
from matl_scale.errors import InputError

SPARSE, REPEATED = "sparse", "replaced by a later member"
MOST_LINKS = 40  # as on Linux: a longer chain is a circle
PACKED = {b"\x1f\x8b": "gunzip", b"BZh": "bunzip2", b"\xfd7zXZ": "unxz", b"\x28\xb5\x2f\xfd": "unzstd"}


@dataclass(frozen=True, kw_only=True)
class TarImages:
    """The image members of some tars. An image is named by its tar and its member, joined by a slash."""

    root: str  # what the user gave
    files: list[Path]  # the tars
    members: list[str] = field(repr=False)  # name of each image
    # index of each image's tar, and its offset and size in bytes, shape `(num_images, 3)`
    ranges: np.ndarray = field(repr=False)
    others: PassedOver = field(default_factory=PassedOver)  # members and files that are not read

    def names(self, passed_over: PassedOver | None = None) -> Iterator[tuple[list[str], np.ndarray]]:
        """Yields all names in chunks, tar after tar."""
        if passed_over is not None:
            passed_over.update(self.others)
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


class Member(NamedTuple):
    """Where a file lies in its tar."""

    offset: int
    size: int


def open_tar_images(files: Sequence[Path], root: str, others: PassedOver | None = None) -> TarImages:
    """Lists the images of uncompressed tars. `others` are files beside them that are not read.

    Raises:
        InputError: A tar is damaged, compressed or unreadable, or none holds an image.
    """
    passed_over = PassedOver()
    members: list[str] = []
    ranges: list[tuple[int, int, int]] = []
    for index, path in enumerate(files):
        found = list_tar(path, passed_over)
        members += [f"{path.name}/{name}" for name in found]
        ranges += [(index, *member) for member in found.values()]
    if others is not None:
        passed_over.update(others)
    if not members:
        raise InputError(
            " ".join([f"{root} holds no tar with images ({', '.join(IMAGE_SUFFIXES)}).", passed_over.describe()])
        )
    return TarImages(
        root=root, files=list(files), members=members, ranges=np.array(ranges, dtype=np.int64), others=passed_over
    )


def list_tar(path: Path, passed_over: PassedOver) -> dict[str, Member]:
    """Returns the images of a tar by member name; counts other members. Raises `InputError` if it cannot be read."""
    found: dict[str, Member] = {}
    links: dict[str, str] = {}
    try:
        with path.open("rb") as file:
            check_not_packed(path, file.read(6))
            with tarfile.open(path, "r:") as tar:
                for entry in tar:
                    name = clean_name(entry.name)
                    if entry.isreg() and entry.sparse is not None:
                        passed_over.add(SPARSE, f"{path.name}/{name}")
                    elif entry.isreg() or entry.islnk() or entry.issym():
                        if found.pop(name, None) or links.pop(name, None):
                            passed_over.add(REPEATED, f"{path.name}/{name}")
                        if entry.isreg():
                            found[name] = Member(entry.offset_data, entry.size)
                        else:
                            links[name] = link_target(entry)
                check_end(path, tar.offset)
            found = follow_links(path, found, links, passed_over)
            kinds = {name: kind_of_member(file.fileno(), name, member) for name, member in found.items()}
    except (tarfile.TarError, OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} cannot be read as an uncompressed tar: {error}.") from error
    for name, kind in kinds.items():
        if kind:
            passed_over.add(kind, f"{path.name}/{name}")
    return {name: member for name, member in found.items() if not kinds[name]}


def clean_name(name: str) -> str:
    """Returns a member's name without `./`, leading slashes and doubled ones: `./a//b.jpg` is `a/b.jpg`."""
    return posixpath.normpath(name.lstrip("/")) if name else name


def link_target(entry: tarfile.TarInfo) -> str:
    """Returns the name of the member that a link points to. A hard link names it, a symbolic one leads there from its folder."""
    folder = "" if entry.islnk() else posixpath.dirname(clean_name(entry.name))
    return clean_name(posixpath.join(folder, entry.linkname))


def follow_links(
    path: Path, found: Mapping[str, Member], links: Mapping[str, str], passed_over: PassedOver
) -> dict[str, Member]:
    """Returns the files of a tar with those that links point to; counts links that lead to no file of the same tar."""
    members = dict(found)
    for name, first in links.items():
        target = first
        for _ in range(MOST_LINKS):
            if target in found:
                members[name] = found[target]
                break
            target = links.get(target, "")
        else:
            passed_over.add(BROKEN_LINK, f"{path.name}/{name}")
    return members


def kind_of_member(descriptor: int, name: str, member: Member) -> str:
    """Returns what a member is: "" for an image; its content is read only if its name cannot tell."""
    kind = kind_by_name(name)
    if kind is None:
        kind = kind_by_content(name, os.pread(descriptor, min(START_BYTES, member.size), member.offset))
    return kind


def check_not_packed(path: Path, start: bytes) -> None:
    """Raises `InputError` for a compressed tar: its members cannot be read by offset."""
    for magic, command in PACKED.items():
        if start.startswith(magic):
            raise InputError(
                f"{path} is a compressed tar. Unpack it to a plain .tar first, for example with `{command}`."
            )


def check_end(path: Path, end: int) -> None:
    """Raises `tarfile.ReadError` if a tar does not end properly: tarfile mistakes a damaged header for the end, and does not see
    what follows the end."""
    with path.open("rb") as file:
        file.seek(end)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError(f"it is damaged or cut off at byte {end:,}")
        while block := file.read(1 << 20):
            if any(block):
                raise tarfile.ReadError(
                    f"more follows its end at byte {end:,}. If tars were joined with cat, give them apart, or join them with "
                    "`tar --concatenate`"
                )
