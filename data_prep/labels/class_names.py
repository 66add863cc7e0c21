"""How the classes of a column are named and ordered: numbers by value, words by letter, false before true."""

import math
import re
from collections import Counter
from collections.abc import Collection, Mapping

from data_prep.labels.suspects import describe_several
from matl_scale.errors import InputError, shortened

INTEGER = re.compile(r"[+-]?\d{1,1000}")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
BOOLEANS = ("false", "true")


def name_classes(cells: Mapping[object, object | None], context: str, as_stored: bool) -> dict[object, str]:
    """Returns the class name of each stored value that is a label, in the order of the classes.

    Args:
        cells: What each stored value means, as from `read_cells`.
        context: How error messages begin.
        as_stored: Whether text stays text, as in Parquet; otherwise it is read as numbers if all of it can be.
    """
    labels = {meaning for meaning in cells.values() if meaning is not None}
    if not as_stored:
        check_one_kind(labels, context)
    numbers = {label: as_number(label, as_stored, context) for label in labels}
    if None in numbers.values():
        are_booleans = not as_stored and {str(label).lower() for label in labels} <= set(BOOLEANS)
        spell = str.lower if are_booleans else str
        ordered = sorted(labels, key=lambda label: spell(str(label)))
        names = {label: spell(str(label)) for label in ordered}
    else:
        ordered = sorted(labels, key=lambda label: numbers[label])  # type: ignore[arg-type,return-value]
        names = {label: str(label).lower() if isinstance(label, bool) else str(numbers[label]) for label in ordered}
    rank = {label: index for index, label in enumerate(ordered)}
    stored = sorted(
        (value for value, label in cells.items() if label is not None), key=lambda value: rank[cells[value]]
    )
    return {value: names[cells[value]] for value in stored}


def check_one_kind(labels: Collection[object], context: str) -> None:
    numbers = sorted(label for label in map(str, labels) if is_number(label))
    others = sorted(label for label in map(str, labels) if not is_number(label))
    if numbers and others:
        several = describe_several(dict.fromkeys([*numbers, *others], 1))
        raise InputError(
            f"{context}: labels should be all numbers or all words. Got {shortened(numbers, 3)} and {shortened(others, 3)}. "
            "Leave cells without a label empty, or read the column as words with --text-columns."
            + (f" Also, {several}." if several else "")
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


def count_classes(counts: Mapping[object, int], classes: Mapping[object, str]) -> Counter[str]:
    """Returns the number of labels of each class, in the order of the classes."""
    sums: Counter[str] = Counter()
    for value, name in classes.items():
        sums[name] += counts[value]
    return sums
