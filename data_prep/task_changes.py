"""Adds, renames, drops and relabels tasks of a shard set: a new version of its labels, while the tars stay untouched.

Labels of added or relabelled tasks go to a Parquet file of their own. The version's tasks table says which file holds the
labels of each task, so the cost does not grow with the number of existing tasks.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.labels.label_file import LabelFile
from data_prep.labels.matrix import (
    ColumnRoles,
    Labels,
    chosen_columns,
    label_columns,
    notes_on_unnamed,
    print_notes,
    read_labels,
)
from data_prep.labels.mismatches import MOST_NAMES, explain_mismatches
from data_prep.labels.white_space import trim
from data_prep.planning.splits import check_classes_in_train, check_two_classes
from data_prep.work_folder import locked_scratch
from data_prep.writing.finalise import GROUP_ROWS
from matl_scale.data.shards.layout import MISSING, table_name
from matl_scale.data.shards.manifest import Manifest, read_manifest
from matl_scale.data.shards.tables import (
    LabelReference,
    TaskCounts,
    column_name,
    describe_file,
    label_schema,
    label_table,
    tasks_table,
    write_table,
)
from matl_scale.data.shards.versions import ROLES, append_version, read_entries
from matl_scale.errors import InputError, nearest, shortened
from matl_scale.storage.files import sync_to_disk
from matl_scale.storage.store import Store
from matl_scale.tasks import Task, match_names
from matl_scale.text import count_of


class TaskColumn(NamedTuple):
    """A task of a version: where its labels are, and the number of samples of each of its classes."""

    task: Task
    reference: LabelReference
    counts: np.ndarray


def columns_of(manifest: Manifest) -> list[TaskColumn]:
    return list(map(TaskColumn, manifest.tasks, manifest.label_references, manifest.counts))


def add_tasks(folder: str, labels: str, roles: ColumnRoles, allow_unmatched: bool = False) -> Manifest:
    """Adds the columns of a label file as tasks; images that the file does not name get no label. The file has the images' names
    as they are in the set (column `path` of its samples). Rows without an image are an error unless `allow_unmatched`.

    Raises:
        InputError: A task has the name of an existing task, or the file cannot be used.
    """
    with opened_for_change(folder) as (manifest, scratch):
        found = read_labels(labels, roles, scratch)
        if taken := [task.name for task in found.tasks if task.name in manifest.task_names]:
            raise InputError(
                f"{folder} has the tasks {shortened(taken)} already. Leave them out with --exclude, rename them, or correct "
                "their labels with `matl-data tasks relabel`."
            )
        rows = find_rows(manifest, found, allow_unmatched)
        new = (np.where((group >= 0)[:, None], found.matrix[group], MISSING) for group in rows)
        columns = [*columns_of(manifest), *write_columns(manifest, found.tasks, new, scratch)]
        change = f"added {count_of(len(found.tasks), 'task')}: {shortened((task.name for task in found.tasks), 5)}"
        return write_version(manifest, columns, change)


def relabel_tasks(folder: str, labels: str, roles: ColumnRoles, allow_unmatched: bool = False) -> Manifest:
    """Replaces labels of existing tasks by those of a label file: every row replaces the labels of its image, and an empty cell
    removes a label. Images that the file does not name keep their labels.

    Raises:
        InputError: The file has a column that is no task, or a class that its task does not have.
    """
    with opened_for_change(folder) as (manifest, scratch):
        names = set(relabelled_names(manifest, labels, roles))
        chosen = [task for task in manifest.tasks if task.name in names]
        found = read_labels(labels, roles, scratch, known_tasks=chosen)
        ids = [manifest.task_names.index(task.name) for task in chosen]
        rows = find_rows(manifest, found, allow_unmatched)
        new = (
            np.where((group >= 0)[:, None], found.matrix[group], before)
            for before, group in zip(manifest.label_groups(ids, GROUP_ROWS), rows, strict=True)
        )
        columns = columns_of(manifest)
        for task_id, column in zip(ids, write_columns(manifest, chosen, new, scratch), strict=True):
            columns[task_id] = column
        change = f"relabelled {count_of(len(chosen), 'task')}: {shortened((task.name for task in chosen), 5)}"
        return write_version(manifest, columns, change)


def rename_tasks(folder: str, names: Sequence[str]) -> Manifest:
    """Renames tasks, each given as OLD=NEW; of tasks `a` and `a=b`, the longer is meant by `a=b=c`.

    Raises:
        InputError: There is no such task, or the new name is taken.
    """
    with opened_for_change(folder) as (manifest, _):
        new_of: dict[str, str] = {}
        for pair in names:
            old = max((name for name in manifest.task_names if pair.startswith(f"{name}=")), key=len, default=None)
            if old is None:
                raise InputError(
                    f"{pair!r} should be OLD=NEW, with OLD a task of {folder}."
                    + nearest(pair.partition("=")[0], manifest.task_names)
                )
            if old in new_of:
                raise InputError(f"Task `{old}` should get one new name. Got two.")
            new_of[old] = trim(pair[len(old) + 1 :])  # as names in the header of a label file
        columns = [
            column._replace(task=replace(column.task, name=new_of.get(column.task.name, column.task.name)))
            for column in columns_of(manifest)
        ]
        all_names = [column.task.name for column in columns]
        if repeated := sorted({name for name in all_names if all_names.count(name) > 1}):
            raise InputError(
                f"Every task should have a name of its own. {shortened(repeated)} would occur more than once."
            )
        change = "renamed " + shortened((f"{old} to {new}" for old, new in new_of.items()), 5)
        return write_version(manifest, columns, change)


def drop_tasks(folder: str, patterns: Sequence[str]) -> Manifest:
    """Drops the tasks that match; older versions keep them.

    Raises:
        InputError: A pattern matches nothing, or no task would remain.
    """
    with opened_for_change(folder) as (manifest, _):
        dropped = match_names(manifest.task_names, patterns, "tasks drop")
        columns = [column for i, column in enumerate(columns_of(manifest)) if i not in set(dropped)]
        if not columns:
            raise InputError(f"At least one task of {folder} should be left.")
        change = f"dropped {count_of(len(dropped), 'task')}: {shortened((manifest.task_names[i] for i in dropped), 5)}"
        return write_version(manifest, columns, change)


@contextmanager
def opened_for_change(folder: str) -> Iterator[tuple[Manifest, Path]]:
    """Locks a shard set, and provides its newest version and a folder for unfinished files."""
    out = Store(folder)
    read_entries(out)  # before the lock, which makes a folder: there may be no shard set
    with locked_scratch(out) as scratch:
        yield read_manifest(out), scratch


def relabelled_names(manifest: Manifest, labels: str, roles: ColumnRoles) -> list[str]:
    """Returns the columns of a label file that replace the labels of tasks."""
    file = LabelFile(labels, roles.image)
    candidates = label_columns(file, roles)
    print_notes(notes_on_unnamed(file, candidates, roles))
    columns = chosen_columns(candidates, roles)
    task_of = {trim(name): name for name in manifest.task_names}  # an older version kept blanks around names
    names = [task_of.get(column, column) for column in columns]
    if unknown := [name for name in names if name not in manifest.task_names]:
        apart = [name for name in manifest.task_names if name.startswith(f"{unknown[0]}:")]
        raise InputError(
            f"{manifest.root} has no task {shortened(unknown)}."
            + (
                f" It has a task of each of its values ({shortened(apart, 3)}): relabel them in columns of these names."
                if apart
                else f"{nearest(unknown[0], manifest.task_names)} Add new tasks with `matl-data tasks add`."
            )
        )
    return names


def find_rows(manifest: Manifest, labels: Labels, allow_unmatched: bool) -> list[np.ndarray]:
    """Returns the label file's row for every sample, −1 if there is none, in groups of `GROUP_ROWS`.

    Raises:
        InputError: Rows name images that are not in the set, or two images share a row.
    """
    paths = manifest.sample_columns("path").column(0)
    groups = []
    used = np.zeros(len(labels.index), dtype=np.int32)
    for start in range(0, manifest.num_samples, GROUP_ROWS):
        rows = labels.index.find(paths.slice(start, GROUP_ROWS).to_pylist())
        np.add.at(used, rows[rows >= 0], 1)
        groups.append(rows)
    unknown = np.flatnonzero(used == 0)
    if len(unknown) and not allow_unmatched:
        without_row = paths.filter(pa.array(np.concatenate(groups) < 0)).to_pylist()
        why = explain_mismatches(without_row, labels.names_of(unknown, MOST_NAMES))
        names = shortened(labels.names_of(unknown), total=len(unknown))
        sentences = [
            f"{labels.file.path} names {count_of(len(unknown), 'image')} missing in {manifest.root}: {names}.",
            why,
            "Correct them, or leave these rows out with --allow-unmatched.",
        ]
        raise InputError(" ".join(filter(None, sentences)))
    if shared := np.flatnonzero(used > 1).tolist():
        names = shortened(labels.names_of(np.array(shared)), total=len(shared))
        raise InputError(
            f"{labels.file.path}: each row should belong to one image. {names} belong to several: give names with extensions."
        )
    return groups


def write_columns(
    manifest: Manifest, tasks: Sequence[Task], labels: Iterator[np.ndarray], scratch: Path
) -> list[TaskColumn]:
    """Writes a file with the labels of some tasks. `labels` yields the rows of their label matrix in groups, shape
    `(num_samples, num_tasks)`.
    """
    name = table_name("labels", len(manifest.entries) + 1)
    split_of = manifest.split_numbers()
    by_split = {split: TaskCounts(tasks) for split in manifest.splits}
    start = 0
    with pq.ParquetWriter(scratch / name, label_schema(tasks), compression="zstd") as writer:
        for group in labels:
            writer.write_table(label_table(tasks, group))
            numbers = split_of[start : start + len(group)]
            for number, counts in enumerate(by_split.values()):
                counts.add(group[numbers == number])
            start += len(group)
    found = {split: counts.counts for split, counts in by_split.items()}
    check_two_classes(found, tasks)
    check_classes_in_train(found, tasks)
    sync_to_disk(scratch / name)
    manifest.root.publish(scratch / name, name)
    totals = [np.sum([counts.counts[i] for counts in by_split.values()], axis=0) for i in range(len(tasks))]
    return [
        TaskColumn(task, LabelReference(name, column_name(task.name)), total)
        for task, total in zip(tasks, totals, strict=True)
    ]


def write_version(manifest: Manifest, columns: Sequence[TaskColumn], change: str) -> Manifest:
    """Adds a version with these tasks; its samples and shards are those of the newest version."""
    root, before = manifest.root, manifest.entries[-1]
    name = table_name("tasks", len(manifest.entries) + 1)
    tasks, references, counts = zip(*columns, strict=True)
    table = write_table(root, name, tasks_table(tasks, references, counts, manifest.num_samples))
    known = {file["file"]: file for file in before["labels"]}
    files = sorted({reference.file for reference in references})
    append_version(
        root,
        manifest.entries,
        {role: before["tables"][role] for role in ROLES} | {"tasks": table},
        [known[file] if file in known else describe_file(root, file) for file in files],
        change,
        oriented=manifest.oriented,
    )
    return read_manifest(root)
