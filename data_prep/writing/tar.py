"""Tars in WebDataset's form, written in blocks and hashed while they are written.

Headers are ustar (POSIX.1-1988) without owner and time, so that equal input gives equal bytes. The headers of a whole block are
built at once: for a small image, `tarfile` takes longer to build a header than all other work takes.
"""

import hashlib
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_prep.image_check import CheckedImage
from matl_scale.data.shards.layout import HEADER_BYTES, encode_label_row, member_name, padded

NAME, SIZE, CHECKSUM = slice(0, 100), slice(124, 135), slice(148, 156)
PADDING = bytes(HEADER_BYTES)


def build_template() -> np.ndarray:
    """Returns the header of a nameless empty file, uint8, shape `(512,)`, with a blank checksum."""
    member = tarfile.TarInfo("")
    member.mode = 0o644
    header: np.ndarray = np.frombuffer(member.tobuf(tarfile.USTAR_FORMAT), dtype=np.uint8).copy()
    header[CHECKSUM] = ord(" ")
    return header


TEMPLATE = build_template()
TEMPLATE_SUM = int(TEMPLATE.sum()) - int(TEMPLATE[NAME].sum()) - int(TEMPLATE[SIZE].sum())


def build_headers(names: Sequence[str], sizes: np.ndarray) -> np.ndarray:
    """Builds tar headers, uint8, shape `(num_members, 512)`, of names in up to 100 ASCII characters and sizes below 8 GiB."""
    headers = np.tile(TEMPLATE, (len(names), 1))
    headers[:, NAME] = np.array(names, dtype="S100").view(np.uint8).reshape(-1, 100)
    headers[:, SIZE] = octal(sizes, 11)
    sums = TEMPLATE_SUM + headers[:, NAME].sum(axis=1, dtype=np.int64) + headers[:, SIZE].sum(axis=1, dtype=np.int64)
    headers[:, CHECKSUM] = np.frombuffer(b"000000\0 ", dtype=np.uint8)
    headers[:, CHECKSUM.start : CHECKSUM.start + 6] = octal(sums, 6)
    return headers


def octal(numbers: np.ndarray, digits: int) -> np.ndarray:
    """Writes numbers as ASCII octal digits, uint8, shape `(num_numbers, digits)`."""
    shifts = 3 * np.arange(digits - 1, -1, -1, dtype=np.int64)
    return ((numbers[:, None] >> shifts & 7) + ord("0")).astype(np.uint8)


class TarWriter:
    """Writes one new tar, front to back."""

    def __init__(self, path: Path) -> None:
        self.size = 0
        self._sha256 = hashlib.sha256()
        self._file = path.open("xb", buffering=0)

    def add(self, keys: Sequence[str], images: Sequence[CheckedImage], labels: np.ndarray) -> np.ndarray:
        """Adds samples, each as an image and a row of the labels, shape `(num_samples, num_tasks)`, and returns the offset of
        each image's bytes in the tar, shape `(num_samples,)`.
        """
        sizes = np.array([len(image.data) for image in images], dtype=np.int64)
        names = [member_name(key, image.extension) for key, image in zip(keys, images, strict=True)]
        image_headers = memoryview(build_headers(names, sizes).tobytes())
        label_members = build_label_members(keys, labels)
        label_bytes, step = memoryview(label_members.tobytes()), label_members.shape[1]
        blocks: list[bytes | memoryview] = []
        for i, image in enumerate(images):
            blocks += (
                image_headers[i * HEADER_BYTES : (i + 1) * HEADER_BYTES],
                image.data,
                PADDING[: -len(image.data) % HEADER_BYTES],
                label_bytes[i * step : (i + 1) * step],
            )
        lengths = HEADER_BYTES + padded(sizes) + step
        starts = self.size + np.cumsum(lengths) - lengths
        self._write(b"".join(blocks))
        offsets: np.ndarray = starts + HEADER_BYTES
        return offsets

    def close(self) -> str:
        """Ends the tar, waits until it is on disk, and returns its hex SHA-256."""
        end = 2 * HEADER_BYTES  # then zeros up to a whole record, as tar writes them
        self._write(bytes(end + -(self.size + end) % tarfile.RECORDSIZE))
        os.fsync(self._file.fileno())
        self._file.close()
        return self._sha256.hexdigest()

    def abandon(self) -> None:
        """Closes the file without completing it."""
        self._file.close()

    def _write(self, data: bytes) -> None:
        self._sha256.update(data)
        unwritten = memoryview(data)
        while unwritten:
            unwritten = unwritten[self._file.write(unwritten) :]
        self.size += len(data)


def build_label_members(keys: Sequence[str], labels: np.ndarray) -> np.ndarray:
    """Builds the members `KEY.npy`, with headers and padding: uint8, shape `(num_samples, member_bytes)`."""
    one = encode_label_row(np.zeros(labels.shape[1], dtype=labels.dtype))
    row_bytes = labels.shape[1] * labels.itemsize
    start = HEADER_BYTES + len(one) - row_bytes
    members = np.zeros((len(keys), int(HEADER_BYTES + padded(np.array(len(one))))), dtype=np.uint8)
    names = [member_name(key, "npy") for key in keys]
    members[:, :HEADER_BYTES] = build_headers(names, np.full(len(keys), len(one)))
    members[:, HEADER_BYTES:start] = np.frombuffer(one[: len(one) - row_bytes], dtype=np.uint8)
    members[:, start : start + row_bytes] = np.ascontiguousarray(labels).view(np.uint8).reshape(len(keys), -1)
    return members
