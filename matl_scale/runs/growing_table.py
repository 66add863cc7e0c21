"""A Parquet table that grows with every evaluation: a folder with a file for each, so that nothing is written twice.

`pyarrow.parquet.read_table`, pandas and others read such a folder as one table. Its files are numbered in the order in which they
were written; their names tell the step, and the split if the table has one. Each appears when it is complete, so that a run that
breaks off leaves a table that can be read. Older versions kept one file, which is read as well, and becomes such a folder
when rows are added to it.
"""

import os
import shutil
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, unquote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from matl_scale.storage.files import sync_to_disk, write_atomic

NAME_COLUMNS = ("split", "task", "metric")
SUFFIX = ".parquet"
READ_ATTEMPTS = 20


class Part(NamedTuple):
    """One file of a table."""

    number: int
    step: int
    split: str  # empty if the table has none

    @property
    def name(self) -> str:
        """The name of the file."""
        words = [f"{self.number:06}", str(self.step), *([quote(self.split, safe="")] if self.split else [])]
        return "-".join(words) + SUFFIX

    @classmethod
    def parse(cls, name: str) -> "Part":
        """Reads the name of a file."""
        number, step, *split = name.removesuffix(SUFFIX).split("-", 2)
        return cls(int(number), int(step), unquote(split[0]) if split else "")


class GrowingTable:
    """The table at a path. It has a column `step`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def exists(self) -> bool:
        """Returns whether rows were ever added."""
        return self.path.exists()

    @property
    def _partial(self) -> Path:
        """Where the file of an older version becomes a folder."""
        return self.path.with_name(f".partial-{self.path.name}")

    def parts(self) -> list[Part]:
        """Returns the files of a folder that count, in the order in which they were written: of a step and split the last one.
        Others of the same are about to be removed, or were left by a process that was killed before it did so."""
        latest = {(part.step, part.split): part for part in self._files()}
        return sorted(latest.values())

    def _files(self) -> list[Part]:
        return sorted(Part.parse(path.name) for path in self.path.glob(f"{'[0-9]' * 6}-*{SUFFIX}"))

    def append(self, new: pa.Table, step: int, split: str = "") -> None:
        """Adds the rows of a step (and split, if the table has one), in exchange for earlier rows of the same."""
        self._make_folder()
        old = self._files()
        self._add_columns(old, new)
        part = Part(old[-1].number + 1 if old else 1, step, split)
        write_atomic(self.path / part.name, partial(write_part, new))
        self._remove(each for each in old if (each.step, each.split) == (step, split))

    def forget_after(self, step: int) -> None:
        """Drops the rows of later steps."""
        if self.path.exists() or self._partial.exists():
            self._make_folder()
            self._remove(part for part in self._files() if part.step > step)

    def read(self) -> pa.Table:
        """Returns the table; with the column `step` alone if it has no rows.

        Raises:
            OSError: A file cannot be read.
            pa.ArrowException: A file is damaged.
        """
        if self.path.is_file():
            return pq.read_table(self.path)
        for attempt in range(READ_ATTEMPTS):
            try:
                tables = [pq.ParquetFile(self.path / part.name).read() for part in self.parts()]
                break
            except FileNotFoundError:  # another process has replaced the rows of a step since the files were listed
                if attempt == READ_ATTEMPTS - 1:
                    raise
        return pa.concat_tables(tables) if tables else pa.table({"step": pa.array([], pa.int64())})

    def evaluations(self) -> list[tuple[int, str]]:
        """Returns the steps and splits whose rows the table has, in the order in which they were added."""
        if self.path.is_file():
            return [(step, split) for step, split, _ in split_rows(pq.read_table(self.path))]
        return [(part.step, part.split) for part in self.parts()]

    def last_change(self) -> int:
        """Returns a number that changes with every file that is added or removed."""
        return self.path.stat().st_mtime_ns

    def _remove(self, parts: Iterator[Part]) -> None:
        for part in parts:
            (self.path / part.name).unlink()
        sync_to_disk(self.path)

    def _add_columns(self, parts: Sequence[Part], new: pa.Table) -> None:
        """Adds columns of new rows that an older version did not write, as null: readers take those of the first file."""
        if not parts or set(new.column_names) <= set(pq.read_schema(self.path / parts[-1].name).names):
            return
        for part in parts:
            table = pq.read_table(self.path / part.name)
            for field in new.schema:
                if field.name not in table.column_names:
                    table = table.append_column(field.name, pa.nulls(len(table), field.type))
            write_atomic(self.path / part.name, partial(write_part, table))

    def _make_folder(self) -> None:
        """Makes the folder, of the file of an older version if there is one.

        The folder is complete before the file is removed, and takes its name at once: whatever breaks off in between is
        finished here.
        """
        if self.path.is_file():
            shutil.rmtree(self._partial, ignore_errors=True)
            self._partial.mkdir()
            for number, (step, split, rows) in enumerate(split_rows(pq.read_table(self.path)), start=1):
                part = Part(number, step, split)
                write_atomic(self._partial / part.name, partial(write_part, rows))
            self.path.unlink()
        if not self.path.exists():
            self._partial.mkdir(exist_ok=True)
            os.replace(self._partial, self.path)
            sync_to_disk(self.path.parent)


def split_rows(table: pa.Table) -> Iterator[tuple[int, str, pa.Table]]:
    """Yields the rows of each step and split, with both, in the order of their first rows; the split is empty if the table has
    none."""
    has_split = "split" in table.column_names
    pairs = table.group_by(["step", "split"] if has_split else ["step"], use_threads=False).aggregate([]).to_pylist()
    for pair in pairs:
        chosen = pc.field("step") == pair["step"]
        if has_split:
            chosen &= pc.field("split") == pair["split"]
        yield pair["step"], pair.get("split", ""), table.filter(chosen)


def write_part(table: pa.Table, path: Path) -> None:
    """Writes a file. Names are dictionary-encoded, numbers are not encoded at all; readers get plain strings."""
    encoded = [name for name in NAME_COLUMNS if name in table.column_names]
    pq.write_table(table, path, compression="zstd", use_dictionary=encoded, store_schema=False)


def names_by_number(numbers: np.ndarray, names: Sequence[str]) -> pa.DictionaryArray:
    """Returns a dictionary-encoded column: `names[i]` for each number i."""
    return pa.DictionaryArray.from_arrays(numbers.astype(np.int32), pa.array(names, pa.string()))
