"""A label file, text or Parquet, read in batches."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from data_prep.labels.header import check_header
from data_prep.labels.text_format import BLOCK_SIZE, TextFormat, read_text_format
from data_prep.labels.white_space import trim
from matl_scale.errors import InputError, nearest, one_line, shortened
from matl_scale.storage.store import Store

BATCH_ROWS = 65_536
PARQUET_MAGIC = b"PAR1"


class LabelFile:
    """A table with a header, on disk or behind a URL: Parquet, or text with commas, semicolons, tabs or bars between cells.

    Attributes:
        path: Path or URL of the file.
        columns: The trimmed names of its columns; one that has no name is called "".
        is_parquet: Whether cells have types; otherwise all are text.
        text_format: How a file of text is written; None for Parquet.
        blank_rows: Indices of the rows in which every cell is empty, as spreadsheets leave them, ascending. They are left out;
            `keys` looks for them.

    Raises:
        InputError: The file is missing or cannot be read.
    """

    def __init__(self, path: str, image_column: str = "image") -> None:
        self.path = path
        folder, _, self._name = path.rpartition("/")
        self._store = Store(folder or ("/" if path.startswith("/") else "."))
        if not self._store.exists(self._name):
            kind = (
                "is a folder" if self._store.local and (self._store.local / self._name).is_dir() else "does not exist"
            )
            raise InputError(f"The label file {path} {kind}.")
        self.text_format: TextFormat | None = None
        self.blank_rows: np.ndarray | None = None
        with self._errors(), self._store.fetched(self._name) as local:
            self.is_parquet = path.lower().endswith(".parquet") or starts_with(local, PARQUET_MAGIC)
            if self.is_parquet:
                header = list(pq.read_schema(local).names)
            else:
                self.text_format = read_text_format(local, path, image_column)
                header = list(self.text_format.header)
        self._header = header
        self.columns = check_header(header, path)

    def find_column(self, name: str) -> int | None:
        """Returns the index of the column with a name, blanks around it aside; None if there is none or several."""
        found = [column for column, known in enumerate(self.columns) if known == trim(name)]
        return found[0] if len(found) == 1 else None

    def check_column(self, name: str) -> None:
        """Raises `InputError` if the file has no such column."""
        if self.find_column(name) is None:
            listed = shortened((known or "one without a name" for known in self.columns), 20)
            unnamed = " The column without a name is chosen with ''." if self.columns.count("") == 1 else ""
            raise InputError(
                f"{self.path} has no column `{name}`. It has: {listed}.{nearest(name, filter(None, self.columns))}{unnamed}"
                + (" Is its first line a comment? Delete it." if self.columns[0].startswith(("#", "//", "%")) else "")
            )

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yields some columns in batches, under the names given. Cells of text files are text; empty ones are null."""
        indices = [self.find_column(name) for name in columns]
        assert None not in indices, columns
        start = 0
        for batch in self.read_columns([index for index in indices if index is not None]):
            yield self._without_blank_rows(batch, start).rename_columns(list(columns))
            start += batch.num_rows

    def read_columns(self, indices: Sequence[int]) -> Iterator[pa.RecordBatch]:
        """Yields the columns with these indices in batches."""
        with self._errors(), self._store.fetched(self._name) as path:
            if self.text_format is None:
                names = [self._header[index] for index in indices]
                for batch in pq.ParquetFile(path).iter_batches(batch_size=BATCH_ROWS, columns=names):
                    batch.validate(full=True)  # finds text that is not UTF-8, for example
                    yield batch.select(names)
            else:
                yield from read_text(path, self.text_format, indices)

    def keys(self, column: str) -> Iterator[list[str]]:
        """Yields a column of names as text, in batches; raises `InputError` if it is missing, or a row has other cells only."""
        self.check_column(column)
        index, start, num_named = self.find_column(column), 0, 0
        assert index is not None
        for batch in self.read_columns([index]):
            with self._errors():
                texts = batch.column(0).cast(pa.string())
                texts.validate(full=True)
            if self.blank_rows is None and is_blank(texts).any():
                self.blank_rows = self._find_blank_rows()
            names = self._without_blank_rows(pa.record_batch([texts], ["name"]), start)["name"].to_pylist()
            if not all(names):
                row = self.data_row(num_named + next(i for i, name in enumerate(names) if not name))
                raise InputError(
                    f"{self.path}: every row should have a value in column `{column}`. Data row {row} has none."
                )
            start, num_named = start + len(texts), num_named + len(names)
            yield names

    def data_row(self, index: int) -> int:
        """Returns the number, from 1, in the file of a row of `batches` or `keys`: blank rows count."""
        if self.blank_rows is None:
            return index + 1
        rows_before = self.blank_rows - np.arange(len(self.blank_rows))
        return index + 1 + int(np.searchsorted(rows_before, index, side="right"))

    def _find_blank_rows(self) -> np.ndarray:
        blank = [
            np.logical_and.reduce([is_blank(column) for column in batch.columns])
            for batch in self.read_columns(range(len(self.columns)))
        ]
        return np.flatnonzero(np.concatenate(blank))

    def _without_blank_rows(self, batch: pa.RecordBatch, start: int) -> pa.RecordBatch:
        """Returns a batch, whose first row is row `start` of the file, without its blank rows."""
        if self.blank_rows is None:
            return batch
        first, last = np.searchsorted(self.blank_rows, [start, start + batch.num_rows])
        if first == last:
            return batch
        is_kept = np.ones(batch.num_rows, dtype=bool)
        is_kept[self.blank_rows[first:last] - start] = False
        return batch.filter(pa.array(is_kept))

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"{self.path} cannot be read: {one_line(error).rstrip('.')}. It should be CSV with a header, or Parquet."
            ) from error


def starts_with(path: Path, magic: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(magic)) == magic


def is_blank(column: pa.Array) -> np.ndarray:
    """Returns which cells of a column are empty or blank, bool, shape `(num_rows,)`."""
    blank = column.is_null()
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        blank = pc.or_(blank, pc.equal(pc.fill_null(pc.utf8_trim_whitespace(column), ""), ""))
    found: np.ndarray = blank.to_numpy(zero_copy_only=False)
    return found


def read_text(path: Path, text_format: TextFormat, indices: Sequence[int]) -> Iterator[pa.RecordBatch]:
    """Yields columns of a text file in batches. They are read by index: names need not be unique."""
    names = [str(index) for index in range(len(text_format.header))]
    convert = pyarrow.csv.ConvertOptions(
        column_types=dict.fromkeys(names, pa.string()),
        include_columns=[str(index) for index in indices],
        null_values=[""],
        strings_can_be_null=True,
        quoted_strings_can_be_null=True,
    )
    read = pyarrow.csv.ReadOptions(
        block_size=BLOCK_SIZE,
        column_names=names,
        skip_rows=text_format.header_lines,
        encoding=text_format.encoding,
    )
    # only quoted cells hold line breaks; to look for them makes reading slower
    parse = pyarrow.csv.ParseOptions(delimiter=text_format.separator, newlines_in_values=text_format.has_quotes)
    with (
        pa.input_stream(str(path), compression=text_format.compression) as stream,
        pyarrow.csv.open_csv(stream, read_options=read, parse_options=parse, convert_options=convert) as reader,
    ):
        yield from reader
