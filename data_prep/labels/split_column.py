"""The column of a label file with the split of each image."""

import sys
from collections.abc import Collection, Iterable, Iterator

import numpy as np

from data_prep.labels.label_file import LabelFile
from data_prep.labels.split_names import check_split_name, describe_changes, usual_names
from data_prep.labels.white_space import trim
from matl_scale.errors import InputError


def read_splits(file: LabelFile, column: str, missing: Collection[str]) -> tuple[list[str], np.ndarray]:
    """Returns the names of the splits in a column, and the number of each row's split, shape `(num_rows,)`, uint8. Usual
    words for train, val and test are read as these, and a line says so. `missing` are words that mean that a cell has no value.

    Raises:
        InputError: A row has no split or a word that means so, a name cannot be one of a split, or there are more than 100, so
            that it is no column of splits.
    """
    number_of: dict[str, int] = {}
    first_rows: list[int] = []
    numbers = [np.zeros(0, dtype=np.uint8)]
    for start, names in with_starts(file.keys(column)):
        for row, name in enumerate(names, start=start):
            if name not in number_of:
                number_of[name] = len(number_of)
                first_rows.append(row)
        if len(number_of) > 100:
            raise InputError(f"{file.path}: column `{column}` should name splits. Got more than 100 names.")
        numbers.append(np.fromiter((number_of[name] for name in names), dtype=np.uint8, count=len(names)))
    split_of = usual_names(number_of)
    for name, row in zip(number_of, first_rows, strict=True):
        if not trim(name) or trim(name) in missing:
            raise InputError(
                f"{file.path}: every row should have a split in column `{column}`. Data row {file.data_row(row)} has {name!r}, "
                "which means that it is missing: write one there, or remove the row."
            )
        try:
            check_split_name(split_of[name])
        except InputError as error:
            raise InputError(f"{file.path}, column `{column}`, data row {file.data_row(row)}: {error}") from error
    if changes := describe_changes(split_of):
        print(f"{file.path}, column `{column}`: {changes}", file=sys.stderr)
    splits = list(dict.fromkeys(split_of.values()))
    renumbered = np.array([splits.index(split_of[name]) for name in number_of], dtype=np.uint8)
    return splits, renumbered[np.concatenate(numbers)]


def with_starts(chunks: Iterable[list[str]]) -> Iterator[tuple[int, list[str]]]:
    """Yields each chunk with the index of its first row."""
    start = 0
    for chunk in chunks:
        yield start, chunk
        start += len(chunk)
