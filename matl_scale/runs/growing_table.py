"""A Parquet table that grows with every evaluation: written anew as a whole, so that it is always complete.

With a thousand tasks that is most of what logging costs. Names are kept encoded by number from one writing to the next, and
numbers are not encoded at all; readers get plain text.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from matl_scale.storage.files import write_atomic

NAME_COLUMNS = ("split", "task", "metric")


class GrowingTable:
    """The table in one file; it has the column `step`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, new: pa.Table, step: int, split: str | None = None) -> None:
        """Adds rows of a step, and of a split if the table has several; what was there of both goes."""
        if self.path.is_file():
            old = self._read()
            if old.num_rows and pc.max(old["step"]).as_py() >= step:
                same = pc.equal(old["step"], step)
                if split is not None:
                    same = pc.and_(same, pc.equal(old["split"].cast(pa.string()), split))
                old = old.filter(pc.invert(same))
            new = pa.concat_tables([old, new]).unify_dictionaries()
        self._write(new)

    def forget_after(self, step: int) -> None:
        """Drops the rows of later steps."""
        if self.path.is_file():
            table = self._read()
            self._write(table.filter(pc.less_equal(table["step"], step)))

    def _read(self) -> pa.Table:
        return pq.read_table(self.path, read_dictionary=list(NAME_COLUMNS))

    def _write(self, table: pa.Table) -> None:
        encoded = [name for name in NAME_COLUMNS if name in table.column_names]
        write_atomic(
            self.path,
            lambda partial: pq.write_table(
                table, partial, compression="zstd", use_dictionary=encoded, store_schema=False
            ),
        )


def names_by_number(numbers: np.ndarray, names: Sequence[str]) -> pa.DictionaryArray:
    """Returns a column of names that occur many times."""
    return pa.DictionaryArray.from_arrays(numbers.astype(np.int32), pa.array(names, pa.string()))
