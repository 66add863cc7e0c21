"""What counts as a class in each column of a label file."""

import math
import re
from collections.abc import Sequence

import pyarrow.compute as pc

from data_prep.labels.label_file import LabelFile, as_labels
from matl_scale.data.shards.layout import MAX_CLASSES
from matl_scale.errors import InputError, nearest, shortened
from matl_scale.tasks import Task

INTEGER = re.compile(r"\s*[+-]?\d{1,1000}\s*")
NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*|nan", re.IGNORECASE)
BOOLEANS = ("false", "true")


def find_classes(
    file: LabelFile, names: Sequence[str], text_columns: Sequence[str], fewest: int = 2
) -> dict[str, dict[object, str]]:
    """Reads the file once and returns the distinct values of each column, with their class names, in the order of the classes.

    Integers are ordered by value, strings alphabetically, and false comes before true. Cells of `text_columns` are text even if
    they look like numbers.

    Raises:
        InputError: A column has fewer than `fewest` classes, more than 65,535, or values of several kinds.
    """
    values: dict[str, set[object]] = {name: set() for name in names}
    for batch in file.batches(names):
        for name in names:
            column = as_labels(batch.column(batch.schema.get_field_index(name)), f"{file.path}, column `{name}`")
            values[name].update(pc.unique(column.drop_null()).to_pylist())
            if len(values[name]) > MAX_CLASSES:
                raise InputError(
                    f"{file.path}, column `{name}`: a task should have at most {MAX_CLASSES:,} classes. Got more: is this "
                    "a name or an id instead of a label? Leave the column out with --tasks."
                )
    return {
        name: name_classes(found, f"{file.path}, column `{name}`", file.is_parquet or name in text_columns, fewest)
        for name, found in values.items()
    }


def name_classes(values: set[object], context: str, as_stored: bool, fewest: int = 2) -> dict[object, str]:
    """Orders and names the classes of a column with these distinct values. `as_stored` says whether text stays text, as in
    Parquet; otherwise it is read as numbers if all of it can be. Error messages begin with `context`.
    """
    if not as_stored:
        if all(map(is_number, values)):
            values = {value for value in values if str(value).strip().lower() != "nan"}
        check_one_kind(values, context)
    numbers = {value: as_number(value, as_stored, context) for value in values}
    if None in numbers.values():
        are_booleans = not as_stored and {str(value).lower() for value in values} <= set(BOOLEANS)
        spell = str.lower if are_booleans else str
        names = {value: spell(str(value)) for value in sorted(values, key=lambda value: spell(str(value)))}
    else:
        ordered = sorted(values, key=lambda value: numbers[value])  # type: ignore[arg-type,return-value]
        names = {value: str(value).lower() if isinstance(value, bool) else str(numbers[value]) for value in ordered}
    classes = list(dict.fromkeys(names.values()))
    if len(classes) < fewest:
        found = f"only {classes[0]!r}" if classes else "no value at all"
        raise InputError(
            f"{context}: a task should have at least two classes. Got {found}: leave the column out with --tasks."
        )
    return names


def check_one_kind(values: set[object], context: str) -> None:
    numbers = sorted(value for value in map(str, values) if is_number(value))
    others = sorted(value for value in map(str, values) if not is_number(value))
    if numbers and others:
        raise InputError(
            f"{context}: labels should be all numbers or all words. Got {shortened(numbers, 3)} and {shortened(others, 3)}. "
            "Leave cells without a label empty, or read the column as words with --text-columns."
        )


def as_number(value: object, as_stored: bool, context: str) -> int | None:
    """Returns a value as an integer, None for words; raises `InputError` for a fraction."""
    if isinstance(value, int):
        return int(value)
    if as_stored or not is_number(value):
        return None
    text = str(value)
    if INTEGER.fullmatch(text):
        return int(text)
    if not math.isfinite(float(text)) or float(text) != int(float(text)):
        raise InputError(f"{context}: labels should be integers, booleans or strings. Got fractions ({text}).")
    return int(float(text))


def is_number(value: object) -> bool:
    return bool(NUMBER.fullmatch(str(value)))


def find_known_classes(
    file: LabelFile, candidates: Sequence[str], tasks: Sequence[Task], text_columns: Sequence[str]
) -> dict[str, dict[object, str]]:
    """Returns what `find_classes` returns, for the columns of the tasks of the set that the file's rows will join.

    `candidates` are the file's label columns.

    Raises:
        InputError: The file has no column for a task, or the column holds a class that the task does not have.
    """
    for task in tasks:
        if task.name not in candidates:
            raise InputError(
                f"{file.path} has no column `{task.name}`, which the shard set has." + nearest(task.name, candidates)
            )
    found = find_classes(file, [task.name for task in tasks], text_columns, fewest=0)
    for task in tasks:
        if unknown := sorted(set(found[task.name].values()) - set(task.classes)):
            raise InputError(
                f"{file.path}, column `{task.name}`: the shard set has no class {shortened(unknown)}. It has "
                f"{shortened(task.classes)}. Prepare all splits in one call."
            )
    return found
