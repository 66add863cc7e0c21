"""Columns whose classes become binary tasks, one for each class: `COLUMN:CLASS`, with the classes `no` and `yes`.

A cell may hold several values. A label is `yes` where the cell holds the class, `no` where it holds others only, and missing
where the cell holds no value.
"""

import sys
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_prep.labels.cells import MAX_SPELLINGS, TooManyClasses, count_values, read_cells
from data_prep.labels.class_names import count_classes, is_number, name_classes
from data_prep.labels.classes import ColumnClasses, check_formulas
from data_prep.labels.label_column import LabelColumn
from data_prep.labels.label_file import LabelFile
from data_prep.labels.missing_words import MissingWords, count_missing
from data_prep.labels.rare_classes import OTHER, RareRule, list_classes
from data_prep.labels.suspects import describe_suspects, split_cell
from data_prep.labels.white_space import trim
from matl_scale.data.shards.layout import MAX_CLASSES
from matl_scale.errors import InputError, shortened
from matl_scale.tasks import Task

NO_YES = ("no", "yes")
SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class OneVsRest:
    """Which columns are taken apart into binary tasks, and what stands between several values in one of their cells."""

    columns: Sequence[str] = ()
    separator: str = ""  # empty: a cell holds one value

    def __post_init__(self) -> None:
        if self.separator and not self.columns:
            raise InputError("`--separator` is for the columns of --one-vs-rest: name them there.")

    def task_name(self, column: str, class_name: str) -> str:
        return f"{column}:{class_name}"

    def own_tasks(self, column: str, tasks: Sequence[Task], whole: Collection[str]) -> list[Task]:
        """Returns those of a shard set's tasks that were made of a column; none is one of the columns that are a task each."""
        prefix = self.task_name(column, "")
        return [
            task for task in tasks if task.name.startswith(prefix) and task.classes == NO_YES and task.name not in whole
        ]

    def values_with_task(self, column: str, tasks: Sequence[Task]) -> list[str]:
        """Returns the value of a column that each of its tasks was made of."""
        return [task.name.removeprefix(self.task_name(column, "")) for task in tasks]

    def values_of(self, text: str, missing: Collection[str]) -> frozenset[str]:
        """Returns the values in a cell, without words that mean missing."""
        if not self.separator:
            return frozenset([text])
        return frozenset(part for part in split_cell(text, self.separator) if part not in missing)


@dataclass(frozen=True, kw_only=True)
class TakenApart:
    """The values that the cells of a column hold."""

    values: Mapping[object, frozenset[str]]  # for each stored value that is not missing
    counts: Mapping[str, int]  # number of cells that hold each value, in the order of the values
    missing: Mapping[str, int]  # words that mean missing, and how often they occur


def take_apart(
    file: LabelFile,
    column: str,
    rule: OneVsRest,
    text_columns: Sequence[str],
    missing: MissingWords,
    known: Collection[str] = (),
) -> TakenApart:
    """Reads the values of a column; raises `InputError` if they cannot be labels. Those that are `known` in the shard set that
    rows will join are values whatever their names are.
    """
    context = f"{file.path}, column `{column}`"
    stored, refused = count_values(file, [column])
    if rule.separator and isinstance(refused.get(column), TooManyClasses):
        raise InputError(
            f"{context}: more than {MAX_SPELLINGS:,} cells differ from each other, too many to take them apart. Give each "
            "value a column of its own, with 0 and 1."
        )
    if refused:
        raise refused[column]
    words = set(missing.of(column)) - set(known)
    cells = read_cells(stored[column], words)
    check_formulas(cells.values(), context)
    are_words = bool(rule.separator) or file.is_parquet or column in map(trim, text_columns)
    classes = name_classes(cells, context, are_words)
    values = {value: held for value, text in classes.items() if (held := rule.values_of(text, words))}
    counts: Counter[str] = Counter()
    for text, count in count_classes(stored[column], classes).items():
        counts.update(dict.fromkeys(rule.values_of(text, words), count))
    ordered = sorted(counts) if rule.separator else counts
    return TakenApart(
        values=values,
        counts={name: counts[name] for name in ordered},
        missing=count_missing(stored[column], cells),
    )


def new_column(file: LabelFile, column: str, rule: OneVsRest, found: TakenApart, rare: RareRule) -> LabelColumn:
    """Returns a column with a binary task for each of its values that is not rare, and prints what became of the others.

    Raises:
        InputError: There are numbers where a separator is expected, or no value is left that could be a task.
    """
    context = f"{file.path}, column `{column}`"
    if rule.separator and found.values and all(is_number(value) for value in found.values):
        raise InputError(
            f"{context}: `--separator` is for cells of several words. This column holds numbers: leave the separator out."
        )
    print_findings(file, column, found, describe_suspects(column, found.counts) if found.counts else ())
    held = values_of_tasks(context, rule.task_name(column, OTHER), found, rare)
    table = holds_table(found, list(held.values()))
    is_constant: np.ndarray = np.logical_and.reduce(table, axis=0)
    if constant := [name for name, is_same in zip(held, is_constant, strict=True) if is_same]:
        print(f"{context}: left out what every cell holds: {shortened(constant, SHOWN)}", file=sys.stderr)
    names = [name for name in held if name not in constant]
    if not names:
        raise InputError(f"{context}: no value is left that could be a task of its own.")
    tasks = [Task(name=rule.task_name(column, name), classes=NO_YES, source=Path(file.path).name) for name in names]
    return LabelColumn(name=column, tasks=tasks, labels=dict(zip(found.values, table[:, ~is_constant], strict=True)))


def values_of_tasks(context: str, other_task: str, found: TakenApart, rare: RareRule) -> dict[str, frozenset[str]]:
    """Returns the values that each task is about, by the end of its name, and prints what becomes of rare ones.

    Args:
        context: How messages begin.
        other_task: Name of the task that all rare values may have together.
        found: The values of the column.
        rare: Which values are rare, and what becomes of them.
    """
    rest = {name: count for name, count in found.counts.items() if count < rare.min_count}
    held = {name: frozenset([name]) for name in found.counts if name not in rest}
    if rest and rare.become == "other":
        held[OTHER] = frozenset([*rest, OTHER])
    if rest:
        become = f"task `{other_task}`" if rare.become == "other" else "no task"
        print(
            f"{context}: {len(rest)} values in fewer than {rare.min_count} cells became {become}: {list_classes(rest)}",
            file=sys.stderr,
        )
    if len(held) > MAX_CLASSES:
        raise TooManyClasses(context)
    return held


def known_column(
    file: LabelFile, column: str, rule: OneVsRest, found: TakenApart, tasks: Sequence[Task]
) -> LabelColumn:
    """Returns a column for the tasks of a shard set that were made of it. Values without a task are named; they are `other`, if
    there is such a task.
    """
    print_findings(file, column, found)
    names = rule.values_with_task(column, tasks)
    unknown = [name for name in found.counts if name not in names]
    if unknown:
        become = f", and are `{rule.task_name(column, OTHER)}`" if OTHER in names else ""
        print(
            f"{file.path}, column `{column}`: {len(unknown)} values have no task in the shard set{become}: "
            + shortened(unknown, SHOWN),
            file=sys.stderr,
        )
    held = [frozenset([OTHER, *unknown]) if name == OTHER else frozenset([name]) for name in names]
    labels = dict(zip(found.values, holds_table(found, held), strict=True))
    return LabelColumn(name=column, tasks=tasks, labels=labels)


def print_findings(file: LabelFile, column: str, found: TakenApart, suspects: Sequence[str] = ()) -> None:
    """Prints what is said of columns that are one task, too: the words taken as missing, and what is odd."""
    values: dict[object, str] = {name: name for name in found.counts}
    notes = ColumnClasses(
        names={column: values}, labels={column: found.counts}, missing={column: found.missing}, suspects=suspects
    )
    for note in notes.notes(file.path):
        print(note, file=sys.stderr)


def holds_table(found: TakenApart, held: Sequence[frozenset[str]]) -> np.ndarray:
    """Returns for each stored value whether it holds one of the values of each task, shape `(num_values, num_tasks)`."""
    index_of = {value: index for index, values in enumerate(held) for value in values}
    table = np.zeros((len(found.values), len(held)), dtype=np.int8)
    for row, values in enumerate(found.values.values()):
        table[row, [index_of[value] for value in values if value in index_of]] = 1
    return table
