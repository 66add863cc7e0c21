"""A Parquet table that grows with every evaluation. The whole file is written each time, so that it is always complete.

With a thousand tasks that is most of the cost of logging. Therefore names stay dictionary-encoded when the table is read and
written again, and numbers are not encoded at all; readers get plain strings.
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
    """The table in one file. It has a column `step`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, new: pa.Table, step: int, split: str | None = None) -> None:
        """Adds the rows of a step (and split, if given), in exchange for earlier rows of the same step (and split)."""
        if self.path.is_file():
            old = self._read()
            if old.num_rows and pc.max(old["step"]).as_py() >= step:
                replaced = pc.equal(old["step"], step)
                if split is not None:
                    replaced = pc.and_(replaced, pc.equal(old["split"].cast(pa.string()), split))
                old = old.filter(pc.invert(replaced))
            # promoted: an older version wrote fewer columns
            new = pa.concat_tables([old, new], promote_options="default").unify_dictionaries()
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
    """Returns a dictionary-encoded column: `names[i]` for each number i."""
    return pa.DictionaryArray.from_arrays(numbers.astype(np.int32), pa.array(names, pa.string()))
