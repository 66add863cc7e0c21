"""Where encoded images come from: a folder, Parquet files with a column of bytes, or pixels in memory."""

import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from matl_scale.data.images.interface import CHUNK_ROWS, ListedImages
from matl_scale.data.images.tar_images import open_tar_images
from matl_scale.errors import InputError
from matl_scale.storage.store import Store

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
READ_BYTES = 1 << 17
RUN_AGAIN = "What is finished is kept: run the same command again."
REMOTE_BATCH = 64  # files that are read at once from a store with latency


@dataclass(frozen=True, kw_only=True)
class FolderImages:
    """The files of a folder, by relative path; a local folder or a URL."""

    place: str

    def names(self) -> Iterator[tuple[list[str], np.ndarray]]:
        """Yields the paths of all image files below the folder, sorted folder by folder."""
        start, chunk = 0, []
        for name in list_files(Store(self.place)):
            if name.lower().endswith(IMAGE_SUFFIXES):
                chunk.append(name)
            if len(chunk) == CHUNK_ROWS:
                yield chunk, np.arange(start, start + len(chunk))
                start, chunk = start + len(chunk), []
        if chunk:
            yield chunk, np.arange(start, start + len(chunk))

    def read(self, names: Sequence[str], sources: np.ndarray) -> Iterator[bytes]:  # noqa: ARG002
        store = Store(self.place)
        if store.local is not None:
            root = str(store.local)
            for name in names:
                yield read_file(f"{root}/{name}")
            return
        for start in range(0, len(names), REMOTE_BATCH):
            part = names[start : start + REMOTE_BATCH]
            for name, data in zip(part, store.read_all(part), strict=True):
                if isinstance(data, bytes):
                    yield data
                elif isinstance(data, FileNotFoundError):
                    yield b""
                else:
                    raise InputError(f"{self.place}/{name} cannot be read: {data}. {RUN_AGAIN}")


def read_file(path: str) -> bytes:
    """Returns a file's content, empty if there is none; for small files, in half the time of a file object.

    Raises:
        InputError: It is there and cannot be read: that is no reason to leave an image out.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe would wait for a writer
        try:
            parts = []
            while data := os.read(descriptor, READ_BYTES):
                parts.append(data)
            return parts[0] if len(parts) == 1 else b"".join(parts)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}. {RUN_AGAIN}") from error


def list_files(store: Store) -> Iterator[str]:
    """Yields the relative paths of all files of a folder, sorted folder by folder, hidden ones left out."""
    if store.local is not None:
        yield from list_local(store.local, "")
        return
    paths = [str(path).split("/") for path in store.fs.find("")]
    yield from ("/".join(path) for path in sorted(paths) if not any(part.startswith(".") for part in path))


def list_local(root: Path, below: str) -> Iterator[str]:
    with os.scandir(root / below) as found:
        entries = sorted((entry for entry in found if not entry.name.startswith(".")), key=lambda entry: entry.name)
    for entry in entries:
        if entry.is_dir():
            if not (entry.is_symlink() and is_loop(Path(entry.path))):
                yield from list_local(root, f"{below}{entry.name}/")
        elif entry.is_file():
            yield f"{below}{entry.name}"


def is_loop(link: Path) -> bool:
    """Returns whether a link to a folder leads to one that holds it."""
    return link.parent.resolve().is_relative_to(link.resolve())


@dataclass(frozen=True, kw_only=True)
class ParquetImages:
    """Rows of Parquet files with the columns `name` and `image` (bytes, or a struct with the field `bytes`)."""

    place: str
    files: Sequence[Path]
    sizes: Sequence[int]

    def names(self) -> Iterator[tuple[list[str], np.ndarray]]:
        """Yields the column `name` of all rows."""
        start = 0
        for file in self.files:
            for names in read_name_column(file):
                yield names, np.arange(start, start + len(names))
                start += len(names)

    def read(self, names: Sequence[str], sources: np.ndarray) -> Iterator[bytes]:  # noqa: ARG002
        starts = np.cumsum([0, *self.sizes])
        for number, file in enumerate(self.files):
            first, last = np.searchsorted(sources, starts[number : number + 2])
            if last > first:
                yield from read_rows(pq.ParquetFile(file), sources[first:last] - starts[number])


def read_name_column(file: Path) -> Iterator[list[str]]:
    """Yields the column `name` of a Parquet file in chunks."""
    try:
        for batch in pq.ParquetFile(file).iter_batches(batch_size=CHUNK_ROWS, columns=["name"]):
            batch.validate(full=True)
            if batch["name"].null_count:
                raise InputError(f"{file}: every row should have a `name`. {batch['name'].null_count} are empty.")
            yield list(map(str, batch["name"].to_pylist()))
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{file} cannot be read as Parquet: {error}.") from error


def read_rows(file: pq.ParquetFile, rows: np.ndarray) -> Iterator[bytes]:
    """Yields the images of some rows, ascending, of a Parquet file; only row groups with one of them are read."""
    groups = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
    ends = np.cumsum(groups)
    wanted = np.unique(np.searchsorted(ends, rows, side="right"))
    place = 0
    for group in wanted.tolist():
        start = int(ends[group]) - groups[group]
        last = np.searchsorted(rows, ends[group])
        for batch in file.iter_batches(batch_size=256, row_groups=[group], columns=["image"]):
            stop = place + int(np.searchsorted(rows[place:last], start + len(batch)))
            if stop > place:
                column = batch.column(0)
                if pa.types.is_struct(column.type):
                    column = column.field("bytes")
                for image in column.take(pa.array(rows[place:stop] - start)):
                    yield image.as_py() or b""
            place, start = stop, start + len(batch)
            if place == last:
                break


@dataclass(frozen=True, kw_only=True)
class ArrayImages:
    """Pixels, encoded as PNG when they are read.

    Attributes:
        place: Where they are from.
        pixels: uint8, shape `(num_images, height, width)` or `(num_images, height, width, 3)`.
    """

    place: str
    pixels: np.ndarray = field(repr=False)

    def read(self, names: Sequence[str], sources: np.ndarray) -> Iterator[bytes]:  # noqa: ARG002
        return (encode_png(self.pixels[row]) for row in sources)


def encode_png(pixels: np.ndarray) -> bytes:
    """Encodes uint8 pixels, shape `(height, width)` or `(height, width, 3)`, as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def open_images(place: str) -> ListedImages:
    """Finds the images of a folder (recursively), of a tar or Parquet file, or of a folder of tars or Parquet files.

    Raises:
        InputError: There are none, a Parquet file lacks a column, or a tar is damaged.
    """
    store = Store(place)
    if place.endswith(".tar"):
        return open_tar_images([local_path(store)], place, IMAGE_SUFFIXES)
    if place.endswith(".parquet"):
        return open_parquet_images([local_path(store)], place)
    if store.local is not None and not store.local.is_dir():
        raise InputError(f"--images should be a folder, a tar or a Parquet file. {place} is none of them.")
    tars = [name for name in store.names() if name.endswith(".tar")]
    if tars:
        if any(name.lower().endswith(IMAGE_SUFFIXES) for name in store.names()):
            raise InputError(
                f"{place} holds both tars and images. Name one of them, or put them into folders of their own."
            )
        return open_tar_images([local_path(store / name) for name in sorted(tars)], place, IMAGE_SUFFIXES)
    parquet = [name for name in store.names() if name.endswith(".parquet")]
    if parquet:
        return open_parquet_images([local_path(store / name) for name in parquet], place)
    images = FolderImages(place=place)
    if next(images.names(), None) is None:
        raise InputError(f"{place} holds no image ({', '.join(IMAGE_SUFFIXES)}), no tar and no Parquet file.")
    return images


def local_path(store: Store) -> Path:
    if store.local is None:
        raise InputError(
            f"Tars and Parquet files with images should be on a file system. Got {store}: copy them first."
        )
    return store.local


def open_parquet_images(files: list[Path], place: str) -> ParquetImages:
    """Opens Parquet files with the columns `name` and `image`."""
    sizes = []
    for file in files:
        try:
            metadata = pq.ParquetFile(file)
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{file} cannot be read as Parquet: {error}.") from error
        if missing := {"name", "image"} - set(metadata.schema_arrow.names):
            raise InputError(f"{file} should have the columns `name` and `image`. It lacks {sorted(missing)}.")
        kind = metadata.schema_arrow.field("image").type
        if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            kind = kind.field("bytes").type
        if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
            raise InputError(
                f"{file}: the column `image` should hold bytes, or a struct with the field `bytes`. Got {kind}."
            )
        sizes.append(metadata.metadata.num_rows)
    return ParquetImages(place=place, files=files, sizes=sizes)
