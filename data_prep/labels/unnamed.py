"""Columns of a label file that nobody named: row numbers and empty columns are left out, any other is asked about."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_prep.labels.cells import stored_values
from data_prep.labels.header import is_unnamed
from data_prep.labels.label_file import LabelFile
from data_prep.labels.white_space import trim
from matl_scale.errors import InputError, shortened

SHOWN_CHARACTERS = 40  # of a cell
FEWEST_ASCENTS = 0.98  # share of rows with a larger number than the row before: tables that were joined begin anew
EMPTY, NUMBERS, VALUES = "no name and no values", "it numbers the rows", "no name, and not asked for"


def describe_unnamed(file: LabelFile, used: set[str], is_needed: bool) -> list[str]:
    """Returns a line for each kind of unnamed column that is left out.

    Args:
        file: The label file.
        used: Columns that the user named.
        is_needed: Whether all columns become tasks, so that an unnamed one with values has to be explained.

    Raises:
        InputError: An unnamed column holds values that do not number the rows, and it `is_needed`.
    """
    left_out = [i for i, name in enumerate(file.columns) if is_unnamed(name) and name not in used]
    kinds: dict[str, list[int]] = {}
    for column in left_out:
        kind = classify(file, column)
        if kind == VALUES and is_needed and not file.columns[column].startswith("__"):
            raise InputError(
                f"{file.path}: every column with labels should have a name. Column {column + 1} has {shown(file, column)} and "
                f"values ({shortened(first_values(file, column), 3)}). Name it, remove it, or leave it out with --exclude."
            )
        kinds.setdefault(kind, []).append(column)
    return [
        f"{file.path}: left out {shortened((f'column {i + 1} ({shown(file, i)})' for i in columns), 5)}: {kind}"
        for kind, columns in kinds.items()
    ]


def shown(file: LabelFile, column: int) -> str:
    return f"`{file.columns[column]}`" if file.columns[column] else "no name"


def classify(file: LabelFile, column: int) -> str:
    """Returns what a column holds: nothing, numbers of rows, which are whole and differ or count up, or something else."""
    numbers: list[np.ndarray] = []
    is_empty, are_numbers, num_nulls = True, True, 0
    num_blank = 0 if file.blank_rows is None else len(file.blank_rows)
    for batch in file.read_columns([column]):
        try:
            cells = stored_values(batch.column(0), f"{file.path}, column {column + 1}")
        except InputError:  # of a type that labels cannot have
            return VALUES
        if pa.types.is_string(cells.type):
            cells = pc.utf8_trim_whitespace(cells)
            cells = pc.if_else(pc.equal(cells, ""), None, cells)
        is_empty = is_empty and cells.null_count == len(cells)
        num_nulls += cells.null_count
        if are_numbers := are_numbers and num_nulls <= num_blank:  # rows without any cell have no number either
            try:
                numbers.append(as_integers(cells.drop_null()))
            except pa.ArrowInvalid:
                are_numbers = False
        if not is_empty and not are_numbers:
            return VALUES
    if is_empty:
        return EMPTY
    joined = np.concatenate(numbers)
    are_row_numbers = len(np.unique(joined)) == len(joined) or np.mean(np.diff(joined) > 0) > FEWEST_ASCENTS
    return NUMBERS if are_row_numbers else VALUES


def as_integers(cells: pa.Array) -> np.ndarray:
    """Returns numbers or their texts as int64; raises `pa.ArrowInvalid` for fractions and words."""
    try:
        integers = cells.cast(pa.int64())
    except pa.ArrowInvalid:
        # pandas writes `1.0` after a join
        integers = cells.cast(pa.float64()).cast(pa.int64())
    return np.asarray(integers)


def first_values(file: LabelFile, column: int) -> list[str]:
    batch = next(iter(file.read_columns([column])))
    values = (value for value in batch.column(0).slice(0, 100).to_pylist() if value is not None)
    return [text for text in (trim(str(value))[:SHOWN_CHARACTERS] for value in values) if text]
