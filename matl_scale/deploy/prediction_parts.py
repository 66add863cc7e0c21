"""Finished parts of a table of predictions, in a hidden folder beside it, so that an interrupted call can be repeated.

A part holds the predictions of some batches and the list of their damaged images. It appears whole; the table is joined from
all parts in the end, so that it has the same bytes whether the work was interrupted or not.
"""

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from matl_scale.data.shards.tables import parquet_errors
from matl_scale.errors import InputError
from matl_scale.storage.files import as_json, write_atomic, write_text
from matl_scale.storage.locks import lock_folder

CALL_FILE = "call.json"
RECORD_KEY = "matl_scale.part"
COMPRESSION = "zstd"


@dataclass(frozen=True, kw_only=True)
class PartWriter:
    """Writes one part."""

    writer: pq.ParquetWriter
    damaged: list[tuple[str, str]]  # name and reason of each

    def add(self, table: pa.Table | None, damaged: Sequence[tuple[str, str]]) -> None:
        """Adds a batch: its predictions, if it has any, and its damaged images."""
        if table is not None:
            self.writer.write_table(table)
        self.damaged.extend(damaged)


@dataclass(frozen=True, kw_only=True)
class PredictionParts:
    """The parts of one table."""

    folder: Path
    schema: pa.Schema

    def finished(self) -> list[Path]:
        """Returns the finished parts, in order."""
        return sorted(self.folder.glob("part-*.parquet"))

    @contextlib.contextmanager
    def new_part(self) -> Iterator[PartWriter]:
        """Provides a writer for the next part, which counts as finished when the context ends without an error."""
        partial = self.folder / ".partial-part"
        damaged: list[tuple[str, str]] = []
        with pq.ParquetWriter(partial, self.schema, compression=COMPRESSION) as writer:
            yield PartWriter(writer=writer, damaged=damaged)
            writer.add_key_value_metadata({RECORD_KEY: json.dumps(damaged)})
        write_atomic(self.folder / f"part-{len(self.finished()):06d}.parquet", partial.replace)

    def join(self, out: Path) -> list[tuple[str, str]]:
        """Writes the table from all parts; returns the damaged images."""

        def write(partial: Path) -> None:
            with pq.ParquetWriter(partial, self.schema, compression=COMPRESSION) as writer:
                for rows in self._read():
                    writer.write_table(rows)  # what fails here is the disk, not a part

        write_atomic(out, write)
        return self.damaged()

    def _read(self) -> Iterator[pa.Table]:
        """Yields the rows of all finished parts."""
        for path in self.finished():
            with contextlib.ExitStack() as stack:
                with self._reading(path):
                    part = stack.enter_context(pq.ParquetFile(path))
                for group in range(part.num_row_groups):
                    with self._reading(path):
                        rows = part.read_row_group(group)
                    yield rows

    def _reading(self, path: Path) -> contextlib.AbstractContextManager[None]:
        return parquet_errors(f"{path} (delete {self.folder} to begin anew)")

    def damaged(self) -> list[tuple[str, str]]:
        """Returns name and reason of the damaged images of all finished parts."""
        found: list[tuple[str, str]] = []
        for path in self.finished():
            with self._reading(path):
                record = pq.read_metadata(path).metadata[RECORD_KEY.encode()]
            found += [(name, reason) for name, reason in json.loads(record)]
        return found


@contextlib.contextmanager
def open_parts(out: Path, call: Mapping[str, Any], schema: pa.Schema) -> Iterator[PredictionParts]:
    """Opens the parts that an equal call has finished for the table `out`, if there are any. They are removed when the context
    ends without an error, and otherwise kept for the next call.

    Raises:
        InputError: Another process writes the table, or parts of another call are there.
    """
    folder = out.with_name(f".{out.name}.parts")
    folder.mkdir(exist_ok=True)
    parts = PredictionParts(folder=folder, schema=schema)
    with lock_folder(folder):
        check_call(out, parts, call)
        try:
            yield parts
        except BaseException:
            if not parts.finished():
                shutil.rmtree(folder)
            raise
        shutil.rmtree(folder)


def check_call(out: Path, parts: PredictionParts, call: Mapping[str, Any]) -> None:
    """Compares a call with the one that began the parts, or begins them."""
    file = parts.folder / CALL_FILE
    if not parts.finished():
        write_text(file, as_json(call))
        return
    begun = json.loads(file.read_text(encoding="utf-8"))
    if different := [key for key, value in json.loads(as_json(call)).items() if begun.get(key) != value]:
        raise InputError(
            f"`--out` {out} was begun by a call with other values of: {', '.join(different)}. Its finished parts are "
            f"kept in {parts.folder}. Repeat that call, give another --out, or delete that folder."
        )
