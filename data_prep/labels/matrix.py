"""A label file as tasks and a label matrix on disk. An empty cell is a missing label, never a class."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from data_prep.labels.classes import find_classes, find_known_classes
from data_prep.labels.header import is_unnamed
from data_prep.labels.image_column import check_image_column
from data_prep.labels.label_column import LabelColumn, write_matrix
from data_prep.labels.label_file import LabelFile
from data_prep.labels.missing_words import MissingWords, parse_missing
from data_prep.labels.name_index import NameIndex, check_unique
from data_prep.labels.one_vs_rest import OneVsRest, known_column, new_column, take_apart
from data_prep.labels.positive import (
    check_positive_kept,
    choose_positive,
    describe_guesses,
    order_classes,
    resolve_choice,
)
from data_prep.labels.rare_classes import RareRule
from data_prep.labels.split_column import read_splits
from data_prep.labels.unnamed import describe_unnamed
from data_prep.labels.white_space import trim
from matl_scale.errors import InputError, shortened
from matl_scale.tasks import Task, match_names
from matl_scale.text import count_of


@dataclass(frozen=True, kw_only=True)
class ColumnRoles:
    """What the columns of a label file mean."""

    image: str = "image"  # the column with the image's name
    split: str | None = None  # the column with its split, if there is one
    tasks: Sequence[str] | None = None  # patterns for the columns that are tasks; None: all others
    exclude: Sequence[str] = ()  # patterns for columns that are no tasks
    text: Sequence[str] = ()  # columns whose cells are text even if all look like numbers
    positive: Sequence[str] = ()  # TASK=CLASS: which class of a binary task is the positive one
    one_vs_rest: OneVsRest = field(default_factory=OneVsRest)  # columns whose classes are tasks
    rare: RareRule = field(default_factory=RareRule)  # what becomes of classes with few labels
    missing: Sequence[str] = ()  # WORD,WORD or COLUMN=WORD,WORD: cells without a label; pandas' words if empty


@dataclass(frozen=True, kw_only=True)
class Labels:
    """The content of a label file."""

    file: LabelFile
    image_column: str  # the column with the images' names
    tasks: Sequence[Task]  # the tasks, one per column of `matrix`
    index: NameIndex  # finds rows by image name
    matrix: np.ndarray  # shape `(num_rows, num_tasks)`, on disk
    # names of splits, and the number of each row's split; None if no column says it
    splits: tuple[list[str], np.ndarray] | None

    def names_of(self, rows: np.ndarray, limit: int = 11) -> list[str]:
        """Returns the image names of the first `limit` of some rows, ascending."""
        wanted = set(rows[:limit].tolist())
        names, row = [], 0
        for chunk in self.file.keys(self.image_column):
            names += [name for i, name in enumerate(chunk, start=row) if i in wanted]
            row += len(chunk)
            if len(names) == len(wanted):
                break
        return names


def read_labels(path: str, roles: ColumnRoles, work: Path, known_tasks: Sequence[Task] = ()) -> Labels:
    """Reads a label file. Every column except the image and split columns is a task, unless there are `known_tasks`: those of
    the shard set that the rows will join. They then decide which columns and classes count. The matrix lies in `work`.

    Raises:
        InputError: The file, a column or a value cannot be used; the message names it.
    """
    file = LabelFile(path, roles.image)
    check_image_column(file, roles.image)
    if roles.split is not None:
        file.check_column(roles.split)
    if file.text_format and file.text_format.encoding == "cp1252":
        print(
            f"{path}: read as Windows-1252, as it is not UTF-8. If words look wrong, save it as UTF-8", file=sys.stderr
        )
    candidates = label_columns(file, roles)
    for name in roles.text:
        file.check_column(name)
    index = NameIndex(lambda: file.keys(roles.image), f"value of column `{roles.image}` of {path}")
    if not len(index):
        raise InputError(f"{path} has no row beside its header.")
    if file.blank_rows is not None and len(file.blank_rows):
        print(f"{path}: left out {count_of(len(file.blank_rows), 'row')} without any cell", file=sys.stderr)
    missing = parse_missing(roles.missing, file.columns, path)
    if known_tasks:
        columns = read_known_columns(file, candidates, roles, missing, known_tasks)
        tasks = known_tasks
    else:
        columns = read_new_columns(file, candidates, roles, missing)
        tasks = [task for column in columns for task in column.tasks]
    check_unique([task.name for task in tasks], f"task of {path}")
    matrix = write_matrix(file, columns, tasks, len(index), work / "label_file.bin")
    splits = None if roles.split is None else read_splits(file, roles.split, missing.of(roles.split))
    return Labels(file=file, image_column=roles.image, tasks=tasks, index=index, matrix=matrix, splits=splits)


def read_new_columns(
    file: LabelFile, candidates: Sequence[str], roles: ColumnRoles, missing: MissingWords
) -> list[LabelColumn]:
    """Returns the columns of the tasks that a label file declares, and prints what was decided without being asked."""
    notes = notes_on_unnamed(file, candidates, roles)
    apart = columns_apart(file, roles)
    whole = [name for name in chosen_columns(candidates, roles) if roles.tasks is not None or name not in apart]
    columns_of_values = []
    for name in apart:
        found = take_apart(file, name, roles.one_vs_rest, roles.text, missing)
        columns_of_values.append(new_column(file, name, roles.one_vs_rest, found, roles.rare))
    columns = read_whole_columns(
        file, whole, roles, missing, notes, [task for column in columns_of_values for task in column.tasks]
    )
    print_notes(notes)
    return columns + columns_of_values


def read_whole_columns(
    file: LabelFile,
    names: Sequence[str],
    roles: ColumnRoles,
    missing: MissingWords,
    notes: list[str],
    other_tasks: Sequence[Task],
) -> list[LabelColumn]:
    """Returns the columns that are one task each; what was decided without being asked is added to `notes`. `other_tasks` are
    those of columns that are taken apart.
    """
    found = find_classes(file, names, roles.text, missing, rare=roles.rare, leave_out=roles.tasks is None)
    if not found.names and not roles.one_vs_rest.columns:
        reasons = "; ".join(found.describe_left_out())
        raise InputError(f"{file.path} has no column beside `{roles.image}` that can be a task by itself: {reasons}.")
    by_words = [
        Task(
            name=name,
            classes=order_classes(tuple(dict.fromkeys(found.names[name].values())))[0],
            source=Path(file.path).name,
        )
        for name in found.names
    ]
    tasks = choose_positive([*by_words, *other_tasks], roles.positive)
    if tasks[len(by_words) :] != other_tasks:
        raise InputError("`--positive`: in the tasks of --one-vs-rest, `yes` is positive, and stays so.")
    tasks = tasks[: len(by_words)]
    chosen = {task_id for choice in roles.positive for task_id, _ in resolve_choice([*by_words, *other_tasks], choice)}
    notes += found.notes(file.path) + describe_guesses([task for i, task in enumerate(tasks) if i not in chosen])
    return [LabelColumn.of_task(task, found.names[task.name]) for task in tasks]


def read_known_columns(
    file: LabelFile, candidates: Sequence[str], roles: ColumnRoles, missing: MissingWords, tasks: Sequence[Task]
) -> list[LabelColumn]:
    """Returns the columns of the tasks of the shard set that a file's rows will join."""
    check_positive_kept(tasks, roles.positive, file.path)
    if needed := excluded_columns(file, roles) & {trim(task.name) for task in tasks}:
        raise InputError(
            f"`--exclude`: the rows will join a shard set, whose tasks have to stay: {shortened(sorted(needed))}."
        )
    rule, columns, whole = roles.one_vs_rest, list[LabelColumn](), list(tasks)
    apart = columns_apart(file, roles)
    # the columns of `a` and `a:b` both have tasks `a:b:CLASS`: those of the longer name first
    for name in sorted(apart, key=len, reverse=True):
        own = rule.own_tasks(name, whole, set(candidates) - set(apart))
        if not own:
            raise InputError(f"`--one-vs-rest` {name}: the shard set has no task `{rule.task_name(name, 'CLASS')}`.")
        whole = [task for task in whole if task not in own]
        found_apart = take_apart(file, name, rule, roles.text, missing, rule.values_with_task(name, own))
        columns.append(known_column(file, name, rule, found_apart, own))
    found = find_known_classes(file, candidates, whole, roles.text, missing, roles.rare)
    print_notes(found.notes(file.path))
    return [LabelColumn.of_task(task, found.names[task.name]) for task in whole] + columns


def notes_on_unnamed(file: LabelFile, candidates: Sequence[str], roles: ColumnRoles) -> list[str]:
    """Returns lines about columns without a name that are left out; raises `InputError` if one of them may be a task."""
    used = {*candidates, *named_columns(roles), *excluded_columns(file, roles), *map(trim, roles.one_vs_rest.columns)}
    return describe_unnamed(file, used, is_needed=roles.tasks is None)


def print_notes(notes: Sequence[str]) -> None:
    for note in notes:
        print(note, file=sys.stderr)


def named_columns(roles: ColumnRoles) -> set[str]:
    """Returns the names of columns that are not labels."""
    return {trim(name) for name in (roles.image, roles.split) if name is not None}


def excluded_columns(file: LabelFile, roles: ColumnRoles) -> set[str]:
    """Returns the names of the columns that match `roles.exclude`; raises `InputError` for a pattern that matches none."""
    names = [name for name in file.columns if name not in named_columns(roles)]
    return {names[i] for i in match_names(names, roles.exclude, "--exclude", kind="columns")}


def columns_apart(file: LabelFile, roles: ColumnRoles) -> list[str]:
    """Returns the columns that are taken apart; raises `InputError` for one that is not there or holds no labels."""
    names = list(dict.fromkeys(map(trim, roles.one_vs_rest.columns)))
    for name in names:
        file.check_column(name)
        if name in named_columns(roles):
            raise InputError(
                f"`--one-vs-rest` should name columns of labels. `{name}` is that of the images or of the splits."
            )
        if name in excluded_columns(file, roles):
            raise InputError(
                f"Column `{name}` matches both `--one-vs-rest` and `--exclude`. Name it in one of them: without --tasks, a "
                "column that is taken apart is no task itself."
            )
    return names


def label_columns(file: LabelFile, roles: ColumnRoles) -> list[str]:
    """Returns the columns that can be tasks; raises `InputError` if there is none. One without a name of its own, as
    `Unnamed: 0`, is one only if the user asked for it by that name.
    """
    asked = set(roles.tasks or ()) - {""}  # a task needs a name
    others = named_columns(roles) | excluded_columns(file, roles)
    names = [name for name in file.columns if name not in others and (name in asked or not is_unnamed(name))]
    if not names:
        beside = shortened([f"`{name}`" for name in file.columns if name in others])
        raise InputError(f"{file.path} has no label column beside {beside}.")
    return names


def chosen_columns(names: Sequence[str], roles: ColumnRoles) -> list[str]:
    """Returns the label columns that match `roles.tasks`; raises `InputError` for a pattern that matches none."""
    return [names[i] for i in match_names(names, roles.tasks, "--tasks")]
