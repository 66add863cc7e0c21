"""Adds, renames, drops and relabels tasks of a shard set: a new version of its labels, and not one tar touched.

Labels of added or relabelled tasks go to a Parquet file of their own; the version's tasks table says in which file each task
has its labels, so the cost does not grow with the tasks that are there already.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from data_prep.labels.label_file import LabelFile
from data_prep.labels.matrix import ColumnRoles, Labels, read_labels
from data_prep.planning.splits import check_classes_in_train
from data_prep.shard_set import working
from data_prep.writing.finalise import GROUP_ROWS
from matl_scale.data.shards.layout import MISSING, class_counts, label_dtype
from matl_scale.data.shards.manifest import Manifest, read_manifest
from matl_scale.data.shards.tables import column_name, describe_file, label_table, tasks_table, write_table
from matl_scale.data.shards.versions import ROLES, append_version, read_entries
from matl_scale.errors import InputError, nearest, shortened
from matl_scale.storage.files import sync_file
from matl_scale.storage.store import Store
from matl_scale.tasks import Task, match_names


def add_tasks(place: str, labels: str, columns: ColumnRoles, allow_unmatched: bool = False) -> Manifest:
    """Adds the columns of a label file as tasks; images that it does not name have no label.

    Args:
        place: The shard set.
        labels: A `.csv` or `.parquet` file with the images' names as they are in the set (column `path` of its samples).
        columns: What the file's columns mean.
        allow_unmatched: Whether rows without an image are left out; else they are an error.

    Raises:
        InputError: A task has the name of one that is there, or the file cannot be used.
    """
    out = open_set(place)
    with working(out, None) as scratch:
        manifest = read_manifest(out)
        found = read_labels(labels, columns, scratch)
        if taken := [task.name for task in found.tasks if task.name in manifest.task_names]:
            raise InputError(
                f"{place} has the tasks {shortened(taken)} already. Leave them out with --tasks, rename them, or correct their "
                "labels with `matl-data tasks relabel`."
            )
        rows = find_rows(manifest, found, allow_unmatched)
        new = (np.where((part >= 0)[:, None], found.matrix[part], MISSING) for part in rows)
        places, counts = write_columns(manifest, found.tasks, new, scratch)
        return write_version(
            manifest,
            [*manifest.tasks, *found.tasks],
            [*manifest.places, *places],
            [*manifest.counts, *counts],
            f"added {len(found.tasks)} tasks: {shortened((task.name for task in found.tasks), 5)}",
        )


def relabel_tasks(place: str, labels: str, columns: ColumnRoles, allow_unmatched: bool = False) -> Manifest:
    """Replaces labels of tasks that are there by those of a label file: every row of it replaces the labels of its image, an
    empty cell takes a label away; images that it does not name keep theirs.

    Raises:
        InputError: The file has a column that is no task, or a class that its task does not have.
    """
    out = open_set(place)
    with working(out, None) as scratch:
        manifest = read_manifest(out)
        names = set(relabelled_names(manifest, labels, columns))
        chosen = [task for task in manifest.tasks if task.name in names]
        found = read_labels(labels, columns, scratch, known_tasks=chosen)
        ids = [manifest.task_names.index(task.name) for task in chosen]
        before, rows = manifest.labels(ids), find_rows(manifest, found, allow_unmatched)
        starts = range(0, manifest.num_samples, GROUP_ROWS)
        new = (
            np.where((part >= 0)[:, None], found.matrix[part], before[start : start + GROUP_ROWS])
            for start, part in zip(starts, rows, strict=True)
        )
        new_places, new_counts = write_columns(manifest, chosen, new, scratch)
        places, counts = list(manifest.places), list(manifest.counts)
        for i, new_place, new_count in zip(ids, new_places, new_counts, strict=True):
            places[i], counts[i] = new_place, new_count
        change = f"relabelled {len(chosen)} tasks: {shortened((task.name for task in chosen), 5)}"
        return write_version(manifest, manifest.tasks, places, counts, change)


def rename_tasks(place: str, names: Sequence[str]) -> Manifest:
    """Renames tasks, each given as OLD=NEW.

    Raises:
        InputError: There is no such task, or the new name is taken.
    """
    out = open_set(place)
    with working(out, None):
        manifest = read_manifest(out)
        new_of: dict[str, str] = {}
        for pair in names:
            old = next((name for name in manifest.task_names if pair.startswith(f"{name}=")), None)
            if old is None:
                raise InputError(
                    f"{pair!r} should be OLD=NEW, with OLD a task of {place}."
                    + nearest(pair.partition("=")[0], manifest.task_names)
                )
            if old in new_of:
                raise InputError(f"Task `{old}` should get one new name. Got two.")
            new_of[old] = pair[len(old) + 1 :]
        tasks = [
            Task(name=new_of.get(task.name, task.name), classes=task.classes, source=task.source)
            for task in manifest.tasks
        ]
        all_names = [task.name for task in tasks]
        if repeated := sorted({name for name in all_names if all_names.count(name) > 1}):
            raise InputError(
                f"Every task should have a name of its own. {shortened(repeated)} would occur more than once."
            )
        change = "renamed " + shortened((f"{old} to {new}" for old, new in new_of.items()), 5)
        return write_version(manifest, tasks, manifest.places, manifest.counts, change)


def drop_tasks(place: str, patterns: Sequence[str]) -> Manifest:
    """Drops the tasks that match; older versions keep them.

    Raises:
        InputError: A pattern matches nothing, or no task would be left.
    """
    out = open_set(place)
    with working(out, None):
        manifest = read_manifest(out)
        dropped = set(match_names(manifest.task_names, patterns, "tasks drop"))
        kept = [i for i in range(len(manifest.tasks)) if i not in dropped]
        if not kept:
            raise InputError(f"At least one task of {place} should be left.")
        return write_version(
            manifest,
            [manifest.tasks[i] for i in kept],
            [manifest.places[i] for i in kept],
            [manifest.counts[i] for i in kept],
            f"dropped {len(dropped)} tasks: {shortened((manifest.task_names[i] for i in sorted(dropped)), 5)}",
        )


def open_set(place: str) -> Store:
    """Returns the store of a shard set; raises `InputError` if it is none."""
    out = Store(place)
    read_entries(out)
    return out


def relabelled_names(manifest: Manifest, labels: str, columns: ColumnRoles) -> list[str]:
    """Returns the columns of a label file that are to replace the labels of tasks."""
    file = LabelFile(labels)
    candidates = [name for name in file.columns if name != columns.image]
    if not candidates:
        raise InputError(f"{labels} has no label column beside `{columns.image}`.")
    names = [candidates[i] for i in match_names(candidates, columns.tasks, "--tasks")]
    if unknown := [name for name in names if name not in manifest.task_names]:
        raise InputError(
            f"{manifest.root} has no task {shortened(unknown)}.{nearest(unknown[0], manifest.task_names)} Add new tasks with "
            "`matl-data tasks add`."
        )
    return names


def find_rows(manifest: Manifest, labels: Labels, allow_unmatched: bool) -> list[np.ndarray]:
    """Returns the label row of every sample, −1 where there is none, in pieces of `GROUP_ROWS`.

    Raises:
        InputError: Rows name images that are not in the set, or two images share one.
    """
    paths = manifest.sample_columns("path").column(0)
    pieces = []
    used = np.zeros(len(labels.index), dtype=np.int32)
    for start in range(0, manifest.num_samples, GROUP_ROWS):
        rows = labels.index.find(paths.slice(start, GROUP_ROWS).to_pylist())
        np.add.at(used, rows[rows >= 0], 1)
        pieces.append(rows)
    unknown = np.flatnonzero(used == 0)
    if len(unknown) and not allow_unmatched:
        raise InputError(
            f"{labels.file.place} names {len(unknown)} images that are not in {manifest.root}: "
            f"{shortened(labels.names_of(unknown))}. Correct them, or leave these rows out with --allow-unmatched."
        )
    if shared := np.flatnonzero(used > 1).tolist():
        raise InputError(
            f"{labels.file.place}: each row should belong to one image. {shortened(labels.names_of(np.array(shared)))} belong to "
            "several: give names with extensions."
        )
    return pieces


def write_columns(
    manifest: Manifest, tasks: Sequence[Task], labels: Iterator[np.ndarray], scratch: Path
) -> tuple[list[tuple[str, str]], list[np.ndarray]]:
    """Writes the label file of some tasks.

    Args:
        manifest: The set, before.
        tasks: Whose labels they are.
        labels: Yields pieces of their label matrix, shape `(num_rows, num_tasks)`.
        scratch: Folder for the unfinished file.

    Returns:
        The place of each task's labels, and the samples of each of its classes.
    """
    name = f"labels.v{len(manifest.entries) + 1}.parquet"
    splits, split_of = list(manifest.splits), manifest.split_numbers()
    by_split = {split: [np.zeros(task.num_classes, dtype=np.int64) for task in tasks] for split in splits}
    schema = label_table(tasks, np.zeros((0, len(tasks)), dtype=label_dtype(tasks))).schema
    start = 0
    with pq.ParquetWriter(scratch / name, schema, compression="zstd") as writer:
        for piece in labels:
            writer.write_table(label_table(tasks, piece))
            numbers = split_of[start : start + len(piece)]
            for number, sums in enumerate(by_split.values()):
                chosen = piece[numbers == number]
                for i, task in enumerate(tasks):
                    sums[i] += class_counts(chosen[:, i], task.num_classes)
            start += len(piece)
    check_classes_in_train(by_split, tasks)
    sync_file(scratch / name)
    manifest.root.publish(scratch / name, name)
    counts = [np.sum([sums[i] for sums in by_split.values()], axis=0) for i in range(len(tasks))]
    return [(name, column_name(task.name)) for task in tasks], counts


def write_version(
    manifest: Manifest,
    tasks: Sequence[Task],
    places: Sequence[tuple[str, str]],
    counts: Sequence[np.ndarray],
    change: str,
) -> Manifest:
    """Adds a version with these tasks; samples and shards stay those of the newest version."""
    root, before = manifest.root, manifest.entries[-1]
    name = f"tasks.v{len(manifest.entries) + 1}.parquet"
    table = write_table(root, name, tasks_table(tasks, places, counts, manifest.num_samples))
    known = {file["file"]: file for file in before["labels"]}
    files = sorted({file for file, _ in places})
    append_version(
        root,
        manifest.entries,
        {role: before["tables"][role] for role in ROLES} | {"tasks": table},
        [known[file] if file in known else describe_file(root, file) for file in files],
        change,
    )
    return read_manifest(root)
