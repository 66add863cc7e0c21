"""Which store holds the labels of a task, and the arrays of all stores: in memory, or in the files of a cache."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from matl_scale.data.shards.dense_labels import BLOCK, DenseColumns, count_block_ends
from matl_scale.data.shards.layout import MISSING
from matl_scale.data.shards.sparse_labels import SparseColumns, count_blocks, encode_column

DENSE = tuple(np.dtype(name) for name in ("int8", "int16", "int32"))
SPARSE = tuple(np.dtype(name) for name in ("uint16", "uint32"))
ARRAYS = {  # of each store, with what they hold; a store is called by the dtype of its labels or entries
    **{f"{dtype}.labels": dtype for dtype in DENSE},
    **{f"{dtype}.ends": np.dtype("uint32") for dtype in DENSE},
    **{f"{dtype}.entries": dtype for dtype in SPARSE},
    **{f"{dtype}.starts": np.dtype("uint32") for dtype in SPARSE},
}
# Dense columns are quicker to read and to count. A sparse one has to be worth it.
DENSE_BYTES_PER_SPARSE = 2

Append = Callable[[str, np.ndarray], object]
Read = Callable[[str], np.ndarray]


class StoredColumn(NamedTuple):
    """How the labels of a task are stored."""

    store: str  # dtype of the store
    bits: int  # of an entry that are the class; 0 if the store is dense
    num_labels: int
    largest: int  # class; `MISSING` if there is no label


class Stores(NamedTuple):
    """Stores, and where in them each column is."""

    stores: list[DenseColumns | SparseColumns]
    store_of: np.ndarray  # shape `(num_columns,)`
    column_of: np.ndarray  # shape `(num_columns,)`


def choose_store(num_samples: int, count: int, largest: int) -> tuple[np.dtype, int]:
    """Returns in which store a task's labels are small, and how many bits a class takes there; 0 in a dense store.

    Args:
        num_samples: Of the set.
        count: Number of the task's labels.
        largest: Largest class among them.
    """
    dense = next(dtype for dtype in DENSE if largest <= np.iinfo(dtype).max)
    bits = max(largest, 0).bit_length()
    sizes = {
        dtype: count * dtype.itemsize + 4 * (count_blocks(num_samples, bits, dtype) + 1)
        for dtype in SPARSE
        if bits < dtype.itemsize * 8
    }
    sparse = min(sizes, key=lambda dtype: sizes[dtype])
    if sizes[sparse] * DENSE_BYTES_PER_SPARSE <= num_samples * dense.itemsize:
        return sparse, bits
    return dense, 0


def store_column(labels: np.ndarray, append: Append) -> StoredColumn:
    """Hands the arrays of a task's labels, shape `(num_samples,)`, to `append`, each with the name of the array to which it
    belongs."""
    present = labels != MISSING
    count, largest = int(np.count_nonzero(present)), int(labels.max(initial=MISSING))
    dtype, bits = choose_store(len(labels), count, largest)
    if dtype in DENSE:
        append(f"{dtype}.labels", labels.astype(dtype, copy=False))
        append(f"{dtype}.ends", count_block_ends(labels))
        return StoredColumn(str(dtype), 0, count, largest)
    sample_ids = np.flatnonzero(present)
    column = encode_column(sample_ids, labels[sample_ids], len(labels), bits, dtype)
    append(f"{dtype}.entries", column.entries)
    append(f"{dtype}.starts", column.starts)
    return StoredColumn(str(dtype), bits, count, largest)


def open_stores(columns: Sequence[StoredColumn], num_samples: int, read: Read) -> Stores:
    """Returns the stores of columns, whose arrays `read` returns by name, with one dimension."""
    names = [column.store for column in columns]
    stores: list[DenseColumns | SparseColumns] = []
    store_of, column_of = np.zeros(len(columns), dtype=np.int64), np.zeros(len(columns), dtype=np.int64)
    for dtype in (*DENSE, *SPARSE):
        own = [i for i, name in enumerate(names) if name == str(dtype)]
        if not own:
            continue
        store_of[own], column_of[own] = len(stores), np.arange(len(own))
        if dtype in DENSE:
            labels = read(f"{dtype}.labels").reshape(len(own), num_samples)
            stores.append(DenseColumns(labels, read(f"{dtype}.ends").reshape(len(own), -(-num_samples // BLOCK))))
        else:
            counts, bits = np.array([(columns[i].num_labels, columns[i].bits) for i in own]).T
            stores.append(SparseColumns(read(f"{dtype}.entries"), read(f"{dtype}.starts"), counts, bits, num_samples))
    return Stores(stores, store_of, column_of)


class ColumnsInMemory:
    """Collects the arrays of columns in memory."""

    def __init__(self) -> None:
        self.columns: list[StoredColumn] = []
        self.num_samples = 0
        self._parts: dict[str, list[np.ndarray]] = {}

    def add(self, labels: np.ndarray) -> None:
        """Adds the labels of a task, shape `(num_samples,)`."""
        self.num_samples = len(labels)
        self.columns.append(store_column(labels, lambda name, part: self._parts.setdefault(name, []).append(part)))

    def finish(self) -> Stores:
        """Returns the stores of all columns."""
        return open_stores(self.columns, self.num_samples, lambda name: np.concatenate(self._parts.pop(name)))
