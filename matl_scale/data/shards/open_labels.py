"""Opens the labels of a version of a shard set, from the label cache where there can be one."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from matl_scale.data.shards.dense_labels import DenseColumns
from matl_scale.data.shards.label_cache import CachedColumns, open_cached, read_columns
from matl_scale.data.shards.labels import Labels
from matl_scale.data.shards.layout import label_dtype
from matl_scale.data.shards.manifest import Manifest
from matl_scale.data.shards.sample_runs import SampleRuns
from matl_scale.data.shards.sparse_labels import SparseColumns
from matl_scale.data.shards.stored_columns import ColumnsInMemory
from matl_scale.storage.files import hash_text


class OpenedLabels(NamedTuple):
    """The labels of a shard set."""

    labels: Labels
    is_shared: bool  # whether all processes of a node share them
    notes: list[str]  # what the user should know about how they were opened, in lines


def open_labels(manifest: Manifest, task_ids: Sequence[int] | None = None) -> OpenedLabels:
    """Opens the labels of all tasks of a shard set or of some.

    Raises:
        InputError: The labels do not match the samples, or a value is no class of its task.
    """
    ids = list(range(len(manifest.tasks))) if task_ids is None else list(task_ids)
    stores: list[DenseColumns | SparseColumns] = []
    store_of, column_of = np.zeros(len(ids), dtype=np.int64), np.zeros(len(ids), dtype=np.int64)
    is_shared, notes, hashes = True, dict[str, None](), list[str]()
    for name in sorted({manifest.label_references[i].file for i in ids}):
        own = [index for index, i in enumerate(ids) if manifest.label_references[i].file == name]
        own_ids = [ids[index] for index in own]
        hashes.append(hash_of(manifest, name))
        found, lines = open_cached(manifest.root, name, hashes[-1])
        is_shared, notes = is_shared and found is not None, notes | dict.fromkeys(lines)
        found = found or read_file(manifest, name, own_ids)
        check_columns(manifest, own_ids, found)
        numbers = {column: number for number, column in enumerate(found.columns)}
        chosen = [numbers[manifest.label_references[i].column] for i in own_ids]
        store_of[own] = found.stores.store_of[chosen] + len(stores)
        column_of[own] = found.stores.column_of[chosen]
        stores += found.stores.stores
    labels = Labels(
        stores=stores,
        store_of=store_of,
        column_of=column_of,
        samples=SampleRuns.all_of(manifest.num_samples),
        dtype=label_dtype([manifest.tasks[i] for i in ids]),
        origin=hash_text("\n".join(hashes)) if is_shared else "",
    )
    return OpenedLabels(labels, is_shared, list(notes))


def hash_of(manifest: Manifest, name: str) -> str:
    """Returns the hash of one of a version's files of labels."""
    (sha256,) = {file["sha256"] for file in manifest.entries[manifest.version - 1]["labels"] if file["file"] == name}
    return str(sha256)


def read_file(manifest: Manifest, name: str, task_ids: Sequence[int]) -> CachedColumns:
    """Reads the columns of some tasks into memory."""
    wanted, found = {manifest.label_references[i].column for i in task_ids}, ColumnsInMemory()
    names = []
    with manifest.root.fetched(name) as path:
        for column, labels in read_columns(path, f"{manifest.root}/{name}", wanted):
            found.add(labels)
            names.append(column)
    columns = dict(zip(names, found.columns, strict=True))
    return CachedColumns(found.num_samples, columns, found.finish())


def check_columns(manifest: Manifest, task_ids: Sequence[int], found: CachedColumns) -> None:
    """Raises `InputError` if a task's column is missing, or holds what is no label of the task."""
    for task_id in task_ids:
        column = found.columns.get(manifest.label_references[task_id].column)
        is_fit = column is not None and column.largest < manifest.tasks[task_id].num_classes
        if not is_fit or found.num_samples != manifest.num_samples:
            manifest.labels([task_id])  # says what is wrong
            raise AssertionError("the labels of a task can be read, but not from the cache")
