"""A label file, CSV or Parquet, read in batches."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from data_prep.labels.name_index import check_unique
from matl_scale.errors import InputError, nearest, one_line, shortened
from matl_scale.storage.store import Store

BATCH_ROWS = 65_536


class LabelFile:
    """A `.csv` or `.parquet` file with a header, on disk or behind a URL.

    Raises:
        InputError: The file is missing or cannot be read.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        folder, _, self._name = path.rpartition("/")
        self._store = Store(folder or ("/" if path.startswith("/") else "."))
        if not self._store.exists(self._name):
            raise InputError(f"The label file {path} does not exist.")
        self.is_parquet = path.lower().endswith(".parquet")
        with self._errors(), self._store.fetched(self._name) as local:
            if self.is_parquet:
                self.columns = list(pq.read_schema(local).names)
            else:
                with pyarrow.csv.open_csv(local) as reader:
                    self.columns = list(reader.schema.names)
        check_unique(self.columns, f"column of {path}")

    def check_column(self, name: str) -> None:
        """Raises `InputError` if the file has no such column."""
        if name not in self.columns:
            raise InputError(
                f"{self.path} has no column `{name}`. It has: {shortened(self.columns, 20)}."
                + nearest(name, self.columns)
            )

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yields some columns in batches. CSV cells are text; empty ones are null."""
        with self._errors(), self._store.fetched(self._name) as path:
            if self.is_parquet:
                for batch in pq.ParquetFile(path).iter_batches(batch_size=BATCH_ROWS, columns=list(columns)):
                    batch.validate(full=True)  # finds text that is not UTF-8, for example
                    yield batch
                return
            options = pyarrow.csv.ConvertOptions(
                column_types={name: pa.string() for name in self.columns},
                include_columns=list(columns),
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=True,
            )
            read = pyarrow.csv.ReadOptions(block_size=1 << 24)
            with pyarrow.csv.open_csv(path, read_options=read, convert_options=options) as reader:
                yield from reader

    def keys(self, column: str) -> Iterator[list[str]]:
        """Yields a column of names as text, in batches; raises `InputError` if it is missing or has an empty cell."""
        self.check_column(column)
        row = 0
        for batch in self.batches([column]):
            with self._errors():
                texts = batch.column(0).cast(pa.string())
                texts.validate(full=True)
                names = texts.to_pylist()
            if texts.null_count or "" in names:
                first = next(i for i, name in enumerate(names) if not name)
                raise InputError(
                    f"{self.path}: every row should have a `{column}`. Data row {row + first + 1} has none."
                )
            row += len(names)
            yield names

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"{self.path} cannot be read: {one_line(error)}. It should be CSV with a header, or Parquet."
            ) from error


def as_labels(column: pa.Array, context: str) -> pa.Array:
    """Returns a column as integers, booleans or strings, with nulls for missing labels; raises `InputError` for anything else."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = column.type
    if pa.types.is_null(kind):
        return column.cast(pa.string())
    if pa.types.is_floating(kind):
        # integers with gaps are often stored as floats, with NaN for a gap
        column = pc.if_else(pc.is_nan(column), None, column)
        try:
            return column.cast(pa.int64())
        except pa.ArrowInvalid as error:
            raise InputError(f"{context}: labels should be integers, booleans or strings. Got fractions.") from error
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return pc.if_else(pc.equal(column, ""), None, column).cast(pa.string())
    if pa.types.is_integer(kind):
        return column if kind == pa.uint64() else column.cast(pa.int64())
    if not pa.types.is_boolean(kind):
        raise InputError(f"{context}: labels should be integers, booleans or strings. Got {kind}.")
    return column
