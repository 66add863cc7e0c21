"""Images in Parquet files with the columns `name` and `image` (bytes, or a struct with the field `bytes`)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from matl_scale.data.images.file_kinds import PassedOver
from matl_scale.data.images.interface import CHUNK_SIZE
from matl_scale.data.shards.tables import parquet_errors
from matl_scale.errors import InputError

BATCH_ROWS = 256


@dataclass(frozen=True, kw_only=True)
class ParquetImages:
    """The rows of Parquet files."""

    root: str  # what the user gave
    files: Sequence[Path]
    sizes: Sequence[int]  # number of rows of each file
    others: PassedOver = field(default_factory=PassedOver)  # files of the folder that are not read

    def names(self, passed_over: PassedOver | None = None) -> Iterator[tuple[list[str], np.ndarray]]:
        """Yields the column `name` of all rows."""
        if passed_over is not None:
            passed_over.update(self.others)
        start = 0
        for file in self.files:
            for names in read_name_column(file):
                yield names, np.arange(start, start + len(names))
                start += len(names)

    def read(self, names: Sequence[str], indices: np.ndarray) -> Iterator[bytes]:  # noqa: ARG002
        starts = np.cumsum([0, *self.sizes])
        for number, file in enumerate(self.files):
            first, last = np.searchsorted(indices, starts[number : number + 2])
            if last > first:
                with parquet_errors(str(file)):
                    yield from read_image_rows(pq.ParquetFile(file), indices[first:last] - starts[number])


def read_name_column(file: Path) -> Iterator[list[str]]:
    """Yields the column `name` of a Parquet file in chunks."""
    with parquet_errors(str(file)):
        for batch in pq.ParquetFile(file).iter_batches(batch_size=CHUNK_SIZE, columns=["name"]):
            batch.validate(full=True)
            if batch["name"].null_count:
                raise InputError(f"{file}: every row should have a `name`. {batch['name'].null_count} are empty.")
            yield list(map(str, batch["name"].to_pylist()))


def read_image_rows(file: pq.ParquetFile, rows: np.ndarray) -> Iterator[bytes]:
    """Yields the images of some rows, ascending, of a Parquet file. Only row groups that hold one of them are read."""
    groups = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
    ends = np.cumsum(groups)
    num_done = 0
    for group in np.unique(np.searchsorted(ends, rows, side="right")).tolist():
        start = int(ends[group]) - groups[group]
        last = np.searchsorted(rows, ends[group])
        for batch in file.iter_batches(batch_size=BATCH_ROWS, row_groups=[group], columns=["image"]):
            stop = num_done + int(np.searchsorted(rows[num_done:last], start + len(batch)))
            if stop > num_done:
                column = batch.column(0)
                if pa.types.is_struct(column.type):
                    column = column.field("bytes")
                for image in column.take(pa.array(rows[num_done:stop] - start)):
                    yield image.as_py() or b""
            num_done, start = stop, start + len(batch)
            if num_done == last:
                break


def open_parquet_images(files: Sequence[Path], root: str, others: PassedOver | None = None) -> ParquetImages:
    """Opens Parquet files; raises `InputError` if one cannot be read or lacks a column. `others` are files that are not read."""
    sizes = []
    for file in files:
        with parquet_errors(str(file)):
            opened = pq.ParquetFile(file)
        if missing := {"name", "image"} - set(opened.schema_arrow.names):
            raise InputError(f"{file} should have the columns `name` and `image`. It lacks {sorted(missing)}.")
        if not holds_images(opened.schema_arrow):
            raise InputError(
                f"{file}: the column `image` should hold bytes, or a struct with the field `bytes`. "
                f"Got {opened.schema_arrow.field('image').type}."
            )
        sizes.append(opened.metadata.num_rows)
    return ParquetImages(root=root, files=files, sizes=sizes, others=others or PassedOver())


def holds_images(schema: pa.Schema) -> bool:
    """Returns whether a Parquet file has a column `image` of bytes; one of labels or predictions has none, or one of names."""
    if schema.get_field_index("image") < 0:
        return False
    kind = schema.field("image").type
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))
