"""Names of splits: what may be one, and the usual words for train, val and test."""

import re
from collections.abc import Iterable, Mapping

from data_prep.labels.white_space import trim
from matl_scale.errors import InputError

USUAL_WORDS = {
    "train": ("train", "training", "trn", "tr"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing", "tst", "te"),
}
DEV_WORDS = ("dev", "development")  # another word for val, or a split beside it
NUMBERS = {"0": "train", "1": "val", "2": "test"}  # as CelebA's partition file has them
NUMBER = re.compile(r"(\d)(\.0+)?")  # pandas writes numbers with gaps as 1.0


def check_split_name(name: str) -> str:
    """Returns `name` if it can be part of a file name; raises `InputError` otherwise."""
    if not re.fullmatch(r"[A-Za-z0-9_]{1,50}", name):
        raise InputError(f"A split name should be up to 50 letters, digits and underscores. Got {name!r}.")
    return name


def usual_names(names: Iterable[str]) -> dict[str, str]:
    """Returns the split that each name in use stands for.

    Names are trimmed. A usual word for train, val or test, in any case, stands for that split; `dev` too, unless there is a val
    beside it. 0, 1 and 2 are train, val and test where all names are such numbers and 2 is among them; 0 and 1 alone could also
    say whether an image is in a split.
    """
    trimmed = {name: trim(name) for name in names}
    numbers = {name: found[1] for name, word in trimmed.items() if (found := NUMBER.fullmatch(word))}
    used = set(numbers.values())
    if len(numbers) == len(trimmed) and "2" in used and used <= set(NUMBERS):
        return {name: NUMBERS[number] for name, number in numbers.items()}
    split_of_word = {word: split for split, words in USUAL_WORDS.items() for word in words}
    if not {word.casefold() for word in trimmed.values()} & set(USUAL_WORDS["val"]):
        split_of_word |= dict.fromkeys(DEV_WORDS, "val")
    return {name: split_of_word.get(word.casefold(), word) for name, word in trimmed.items()}


def describe_changes(split_of: Mapping[str, str]) -> str:
    """Returns which names are read as others, as "`Train` is read as train"; empty if none is."""
    return ", ".join(f"`{name}` is read as {split}" for name, split in split_of.items() if name != split)
