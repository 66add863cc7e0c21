"""Columns whose classes look like a mistake: nearly equal words, decimal commas, several values in one cell, a value
of its own per row.

They become tasks nevertheless; a line says what is odd and how to mend the file.
"""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping

from data_prep.labels.white_space import trim

# between values of one cell, and how many classes there should be for each value: a bar is hardly ever part of a word, blanks
# often are
SEPARATORS = {"|": 0.0, ";": 1.0, ",": 1.0, "/": 1.0, " ": 3.0}
BRACKETS = ("[]", "{}")
SHOWN_CHARACTERS = 60  # of a cell
DECIMAL_COMMA = re.compile(r"[+-]?\d+(, ?\d+)+")
FEWEST_ROWS = 20  # below, a value of its own in every row is no sign of an id


def describe_suspects(column: str, counts: Mapping[str, int]) -> list[str]:
    """Returns a line for each thing that is odd about a column, whose classes have these numbers of labels."""
    lines = (describe_spellings(counts), describe_several(counts), describe_ids(counts))
    return [f"column `{column}`: {line}" for line in lines if line]


def describe_spellings(counts: Mapping[str, int]) -> str:
    """Returns a line about classes that are equal but for case, blanks or Unicode form; an empty one if there are none."""
    alike = defaultdict(list)
    for name in counts:
        alike[" ".join(unicodedata.normalize("NFKC", name).casefold().split())].append(name)
    groups = [", ".join(f"`{name[:SHOWN_CHARACTERS]}`" for name in names) for names in alike.values() if len(names) > 1]
    if not groups:
        return ""
    return (
        f"these are different classes: {'; '.join(groups[:3])}{' …' if len(groups) > 3 else ''}. They are equal but for case, "
        "blanks or Unicode form; spell them alike in the file to make them one"
    )


def describe_several(counts: Mapping[str, int]) -> str:
    """Returns a line about cells that are no single value; an empty one if there are none."""
    return describe_decimal_commas(counts) or describe_several_values(counts)


def describe_decimal_commas(counts: Mapping[str, int]) -> str:
    """Returns a line if all cells are numbers, some of them with a comma; an empty one otherwise."""
    found = [name for name in counts if DECIMAL_COMMA.fullmatch(name)]
    if not found or not all(DECIMAL_COMMA.fullmatch(name) or name.lstrip("+-").isdigit() for name in counts):
        return ""
    return (
        f"cells as `{found[0]}` are words here, not numbers. If they are fractions, they cannot be labels; if they are "
        "several numbers, give each number a column of its own with 0 and 1"
    )


def describe_several_values(counts: Mapping[str, int]) -> str:
    """Returns a line about cells that seem to hold several values; an empty one if there are none."""
    for separator, share in SEPARATORS.items():
        cells = [name for name in counts if len(split_cell(name, separator)) > 1]
        if not cells:
            continue
        parts = Counter(part for name in counts for part in set(split_cell(name, separator)))
        is_repeated = any(parts[part] > 1 for name in cells for part in split_cell(name, separator))
        if is_repeated and len(counts) > share * len(parts):
            example = max(cells, key=lambda name: counts[name])
            between = "blanks" if separator == " " else f"`{separator}`"
            return (
                f"cells seem to hold several values separated by {between}, as `{example[:SHOWN_CHARACTERS]}`: {len(counts)} "
                f"classes made of {len(parts)} values. --one-vs-rest with --separator '{separator}' makes a task of each value"
            )
    return ""


def split_cell(text: str, separator: str) -> list[str]:
    """Returns the values in a cell. One in brackets is a list as programs print it: brackets and quotes are no part of values."""
    is_list = text[:1] + text[-1:] in BRACKETS
    parts = text[1:-1].split(separator) if is_list else text.split(separator)
    trimmed = (trim(trim(part).strip("'\"")) if is_list else trim(part) for part in parts)
    return [part for part in trimmed if part]


def describe_ids(counts: Mapping[str, int]) -> str:
    """Returns a line if every label has a class of its own; an empty one otherwise."""
    if len(counts) < FEWEST_ROWS or max(counts.values()) > 1:
        return ""
    return f"all {len(counts)} labels differ. Is it a name or an id? Leave the column out with --exclude"
