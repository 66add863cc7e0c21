"""Words that mean that there is no label: pandas' by default, or those that the user gives, for all columns or for one."""

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from data_prep.labels.white_space import trim
from matl_scale.errors import InputError, nearest, shortened

# what pandas.read_csv takes as missing by default: STR_NA_VALUES in pandas/_libs/parsers.pyx, version 3.1, less the empty word
DEFAULT_WORDS = frozenset(
    {"#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA"}
    | {"NULL", "NaN", "None", "n/a", "nan", "null"}
)
# words that often mean missing and are as often a class; a line points them out where they become one
DOUBTFUL_WORDS = frozenset(
    {"?", "-", "--", ".", "unknown", "missing", "undefined", "unspecified", "not available", "tbd"}
)


@dataclass(frozen=True, kw_only=True)
class MissingWords:
    """Words that mean that there is no label. An empty or blank cell always means that."""

    everywhere: Collection[str] = DEFAULT_WORDS
    of_column: Mapping[str, Collection[str]] = field(default_factory=dict)  # instead of `everywhere`, for these columns

    def of(self, column: str) -> Collection[str]:
        """Returns the words of a column."""
        return self.of_column.get(trim(column), self.everywhere)


def parse_missing(choices: Sequence[str], columns: Sequence[str], path: str) -> MissingWords:
    """Reads the values of `--missing-values`, each `WORD,WORD` or `COLUMN=WORD,WORD`. Without any, the words are pandas'.

    `columns` are those of the label file at `path`.

    Raises:
        InputError: There is no such column.
    """
    everywhere: set[str] = set()
    of_column: dict[str, set[str]] = {}
    is_general = False
    for choice in choices:
        # names may contain the sign: the longest part before one that is a column is meant
        parts = [(trim(choice[: found.start()]), choice[found.end() :]) for found in re.finditer("=", choice)]
        known = [(column, words) for column, words in parts if column in columns]
        if known:
            column, words = known[-1]
            of_column.setdefault(column, set()).update(split_words(words))
        elif parts:
            name = parts[0][0]
            raise InputError(
                f"`--missing-values` should be words, or COLUMN=WORDS. Got `{choice}`: {path} has no column `{name}`."
                + nearest(name, columns)
            )
        else:
            is_general = True
            everywhere |= split_words(choice)
    return MissingWords(everywhere=everywhere if is_general else DEFAULT_WORDS, of_column=of_column)


def split_words(text: str) -> set[str]:
    return {word for word in map(trim, text.split(",")) if word}


def count_missing(counts: Mapping[object, int], meanings: Mapping[object, object | None]) -> Counter[str]:
    """Returns how often each word that means missing occurs in a column whose stored values have these counts and meanings."""
    words: Counter[str] = Counter()
    for value, meaning in meanings.items():
        if meaning is None and (word := trim(str(value))):
            words[word] += counts[value]
    return words


def describe_missing(words: Mapping[str, int]) -> str:
    """Returns words and their numbers of cells, as "3 cells `NA`, 1 `null`"; an empty text if there are none."""
    listed = [f"{count} `{word}`" for word, count in Counter(words).most_common()]
    return shortened(listed, 3)


def describe_taken(words_of: Mapping[str, Mapping[str, int]], shown_columns: int) -> list[str]:
    """Returns a line about the words of each column that were taken as missing, and how to keep them; empty without any."""
    # a class that is called like one of these words is a large part of its column
    names = sorted(words_of, key=lambda name: -sum(words_of[name].values()))
    listed = [f"{describe_missing(words_of[name])} in `{name}`" for name in names if words_of[name]]
    if not listed:
        return []
    return [
        f"taken as missing labels: {shortened(listed, shown_columns)}. --missing-values '' keeps all words as classes, "
        "--missing-values 'COLUMN=' those of one column"
    ]


def describe_doubtful(classes_of: Mapping[str, Collection[str]], shown_columns: int) -> list[str]:
    """Returns a line about classes whose names often mean missing; empty without any."""
    listed = [f"`{name}` of `{column}`" for column, names in classes_of.items() for name in find_doubtful(names)]
    if not listed:
        return []
    return [
        f"classes that may mean a missing label: {shortened(listed, shown_columns)}. --missing-values names the words that do, "
        "as 'NA,?', or for one column as 'COLUMN=NA,?'"
    ]


def find_doubtful(names: Collection[str]) -> list[str]:
    """Returns those of a column's classes that may mean that a label is missing; beside 0 and 1, −1 may."""
    found = [name for name in names if name.lower() in DOUBTFUL_WORDS]
    return ["-1", *found] if {"-1", "0", "1"} == set(names) else found
