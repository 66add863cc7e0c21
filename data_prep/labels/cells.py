"""What a cell of a label file means: the one place that decides it, for CSV and Parquet, and for every pass over a file.

White space around a word does not count. An empty cell, a blank one and a word for "missing" are no label; everything else is.
"""

import re
from collections import Counter
from collections.abc import Collection, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from data_prep.labels.label_file import LabelFile
from data_prep.labels.missing_words import DEFAULT_WORDS
from data_prep.labels.white_space import trim
from matl_scale.data.shards.layout import MAX_CLASSES
from matl_scale.errors import InputError

WHOLE = re.compile(r"([+-]?\d+)\.0*")
MAX_SPELLINGS = 4 * MAX_CLASSES  # distinct cells of a column: blanks and zeros make several spellings of one class


def stored_values(column: pa.Array, context: str) -> pa.Array:
    """Returns a column as integers, booleans or text, null where there is nothing; raises `InputError` for any other type."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = column.type
    if pa.types.is_null(kind) or is_text(kind):
        try:
            return column.cast(pa.string())
        except pa.ArrowInvalid as error:
            raise InputError(f"{context}: words should be UTF-8 text. Got other bytes.") from error
    if pa.types.is_floating(kind):
        # integers with gaps are often stored as floats, with NaN for a gap
        column = pc.if_else(pc.is_nan(column), None, column)
        if pc.any(pc.is_inf(column)).as_py():
            raise InputError(f"{context}: labels should be integers, booleans or strings. Got infinity.")
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        try:
            return column.cast(pa.int64())
        except pa.ArrowInvalid as error:
            raise InputError(f"{context}: labels should be integers, booleans or strings. Got fractions.") from error
    if pa.types.is_integer(kind):
        return column if kind == pa.uint64() else column.cast(pa.int64())
    if not pa.types.is_boolean(kind):
        remedy = "Give each value a column of its own, with 0 and 1, or leave" if pa.types.is_nested(kind) else "Leave"
        raise InputError(
            f"{context}: labels should be integers, booleans or strings. Got {kind}. {remedy} the column out with --exclude."
        )
    return column


def is_text(kind: pa.DataType) -> bool:
    """Returns whether a type holds words; some writers store words as bytes."""
    kinds = ("string", "large_string", "string_view", "binary", "large_binary", "binary_view")
    return str(kind) in kinds


def count_values(file: LabelFile, names: Sequence[str]) -> tuple[dict[str, Counter[object]], dict[str, InputError]]:
    """Reads some columns, and returns how often each stored value occurs in each of them, without nulls; and for the columns that
    cannot be labels, because of their type or because they have far too many values, what is wrong with them.
    """
    counts: dict[str, Counter[object]] = {name: Counter() for name in names}
    refused: dict[str, InputError] = {}
    for batch in file.batches(names):
        for name, column in zip(names, batch.columns, strict=True):
            if name in refused:
                continue
            context = f"{file.path}, column `{name}`"
            try:
                values = stored_values(column, context).drop_null()
            except InputError as error:
                refused[name] = error
                continue
            for pair in pc.value_counts(values).to_pylist():
                counts[name][pair["values"]] += pair["counts"]
            if len(counts[name]) > MAX_SPELLINGS:
                refused[name] = TooManyClasses(context)
    return counts, refused


class TooManyClasses(InputError):
    """A column has more classes than a task may have."""

    def __init__(self, context: str) -> None:
        super().__init__(
            f"{context}: a task should have at most {MAX_CLASSES:,} classes. Got more: is this a name or an id instead of a "
            "label? Leave the column out with --exclude."
        )


def read_cells(
    values: Collection[object], missing: Collection[str] = DEFAULT_WORDS, known: Collection[str] = ()
) -> dict[object, object | None]:
    """Returns what stored values mean: text without white space around it, other values as they are, None where there is no
    label: an empty cell, or a word or number of `missing`. A class of the shard set that rows will join, one of `known`, stays a
    class whatever its name is. `-1.0`, as pandas writes −1 beside gaps, is missing where `-1` is.
    """

    def is_missing(text: str) -> bool:
        whole = WHOLE.fullmatch(text)
        return not text or text in missing or (whole is not None and whole[1] in missing)

    def meaning(value: object) -> object | None:
        text = trim(str(value))
        if value in known or text in known or not is_missing(text):
            return text if isinstance(value, str) and value not in known else value
        return None

    return {value: meaning(value) for value in values}
