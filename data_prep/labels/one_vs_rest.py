"""Columns whose classes become binary tasks, one for each class: `COLUMN:CLASS`, with the classes `no` and `yes`.

A cell may hold several values. A label is `yes` where the cell holds the class, `no` where it holds others only, and missing
where the cell is.
"""

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_prep.labels.classes import find_classes, is_number
from data_prep.labels.label_column import LabelColumn
from data_prep.labels.label_file import LabelFile
from data_prep.labels.missing_words import MissingWords
from data_prep.labels.rare_classes import OTHER, RareRule, list_classes
from data_prep.labels.white_space import trim
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

    def values_of(self, text: str, missing: MissingWords, column: str) -> frozenset[str]:
        """Returns the values in a cell, without words that mean missing."""
        if not self.separator:
            return frozenset([text])
        parts = map(trim, text.split(self.separator))
        return frozenset(part for part in parts if part and part not in missing.of(column))


@dataclass(frozen=True, kw_only=True)
class TakenApart:
    """The values that the cells of a column hold."""

    values: Mapping[object, frozenset[str]]  # for each stored value that is not missing
    counts: Mapping[str, int]  # number of cells that hold each value, in the order of the values
    num_cells: int  # that are not missing


def take_apart(
    file: LabelFile, column: str, rule: OneVsRest, text_columns: Sequence[str], missing: MissingWords
) -> TakenApart:
    """Reads the values of a column; raises `InputError` if it is not there, holds numbers between separators, or nothing."""
    file.check_column(column)
    texts = [*text_columns, column] if rule.separator else text_columns
    found = find_classes(file, [column], texts, missing)
    classes, labels = found.names[column], found.labels[column]
    if rule.separator and all(map(is_number, labels)):
        raise InputError(
            f"{file.path}, column `{column}`: `--separator` is for cells of several words. This column holds numbers: leave the "
            "separator out."
        )
    values = {value: rule.values_of(text, missing, column) for value, text in classes.items()}
    values = {value: held for value, held in values.items() if held}
    counts: Counter[str] = Counter()
    for text, count in labels.items():
        counts.update(dict.fromkeys(rule.values_of(text, missing, column), count))
    ordered = sorted(counts) if rule.separator else [name for name in labels if name in counts]
    num_cells = sum(count for text, count in labels.items() if rule.values_of(text, missing, column))
    return TakenApart(values=values, counts={name: counts[name] for name in ordered}, num_cells=num_cells)


def new_column(file: LabelFile, column: str, rule: OneVsRest, found: TakenApart, rare: RareRule) -> LabelColumn:
    """Returns a column with a binary task for each of its values that is not rare, and prints what became of the others."""
    common = [name for name, count in found.counts.items() if count >= rare.min_count]
    rest = {name: count for name, count in found.counts.items() if count < rare.min_count}
    held = {name: frozenset([name]) for name in common}
    if rest and rare.become == "other":
        held[OTHER] = frozenset([*rest, OTHER])
    held = {name: values for name, values in held.items() if not is_constant(values, found)}
    if constant := [name for name in common if name not in held]:
        print(
            f"{file.path}, column `{column}`: left out what every cell holds: {shortened(constant, SHOWN)}",
            file=sys.stderr,
        )
    if rest:
        become = f"task `{rule.task_name(column, OTHER)}`" if rare.become == "other" else "no task"
        print(
            f"{file.path}, column `{column}`: {len(rest)} values in fewer than {rare.min_count} cells became {become}: "
            + list_classes(rest),
            file=sys.stderr,
        )
    if not held:
        raise InputError(f"{file.path}, column `{column}`: no value is left that could be a task of its own.")
    tasks = [Task(name=rule.task_name(column, name), classes=NO_YES, source=Path(file.path).name) for name in held]
    return LabelColumn(name=column, tasks=tasks, labels=label_values(found, list(held.values())))


def is_constant(values: frozenset[str], found: TakenApart) -> bool:
    return all(held & values for held in found.values.values())


def known_column(
    file: LabelFile, column: str, rule: OneVsRest, found: TakenApart, tasks: Sequence[Task]
) -> LabelColumn:
    """Returns a column for the tasks of a shard set that were made of it. Values without a task are `other`, if there is such a
    task; else they are named.
    """
    names = [task.name.removeprefix(rule.task_name(column, "")) for task in tasks]
    unknown = [name for name in found.counts if name not in names]
    if unknown and OTHER not in names:
        print(
            f"{file.path}, column `{column}`: {len(unknown)} values have no task in the shard set: {shortened(unknown, SHOWN)}",
            file=sys.stderr,
        )
    held = [frozenset([OTHER, *unknown]) if name == OTHER else frozenset([name]) for name in names]
    return LabelColumn(name=column, tasks=tasks, labels=label_values(found, held))


def label_values(found: TakenApart, held: Sequence[frozenset[str]]) -> dict[object, tuple[int, ...]]:
    """Returns for each stored value whether it holds one of the values of each task."""
    return {value: tuple(int(bool(values & wanted)) for wanted in held) for value, values in found.values.items()}
