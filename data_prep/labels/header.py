"""Which columns of a label file have a name, and what becomes of those that have none.

Names are trimmed. Empty names, pandas' `Unnamed: 0` and `__index_level_0__` stand for columns that nobody named: row numbers and
the empty columns of spreadsheets.
"""

import re
from collections import defaultdict
from collections.abc import Sequence

from data_prep.labels.white_space import trim
from matl_scale.errors import InputError, shortened

UNNAMED = re.compile(r"|Unnamed: \d+(_level_\d+|\.\d+)*|__index_level_\d+__")


def is_unnamed(name: str) -> bool:
    """Returns whether a trimmed name of a column is none: empty, or one that pandas makes up."""
    return bool(UNNAMED.fullmatch(name))


def check_header(header: Sequence[str], path: str) -> list[str]:
    """Returns the trimmed names of the columns; raises `InputError` if two columns have the same, unless that is empty."""
    names = list(map(trim, header))
    columns_of: dict[str, list[int]] = defaultdict(list)
    for column, name in enumerate(names):
        columns_of[name].append(column)
    if repeated := {name: columns for name, columns in columns_of.items() if len(columns) > 1 and name}:
        listed = [
            " and ".join(f"{header[column]!r} (column {column + 1})" for column in columns)
            for columns in repeated.values()
        ]
        raise InputError(
            f"Every column of {path} should have a name of its own; blanks around a name do not count. {len(repeated)} names "
            f"occur more than once: {shortened(listed, 5)}. Rename or remove the copies."
        )
    return names
