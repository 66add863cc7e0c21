"""Names of splits: what may be one, and the usual words for train, val and test."""

import re
from collections.abc import Iterable, Mapping

from data_prep.labels.white_space import trim
from matl_scale.errors import InputError

USUAL_WORDS = {
    "train": ("train", "training", "trn", "tr"),
    "val": ("val", "valid", "validation", "dev", "development"),
    "test": ("test", "testing", "tst", "te"),
}
NUMBERS = {"0": "train", "1": "val", "2": "test"}  # as CelebA's partition file has them


def check_split_name(name: str) -> str:
    """Returns `name` if it can be part of a file name; raises `InputError` otherwise."""
    if not re.fullmatch(r"[A-Za-z0-9_]{1,50}", name):
        raise InputError(f"A split name should be up to 50 letters, digits and underscores. Got {name!r}.")
    return name


def usual_names(names: Iterable[str]) -> dict[str, str]:
    """Returns the split that each name in use stands for.

    Names are trimmed. A usual word for train, val or test, in any case, stands for that split, unless another word for it is
    in use too: with `val` and `dev`, both stay as they are. 0, 1 and 2 are train, val and test where all names are such numbers
    and 2 is among them; 0 and 1 alone could also say whether an image is in a split.
    """
    trimmed = {name: trim(name) for name in names}
    used = set(trimmed.values())
    if "2" in used and used <= set(NUMBERS):
        return {name: NUMBERS[word] for name, word in trimmed.items()}
    folded = {word.casefold() for word in used}
    split_of = dict(trimmed)
    for split, words in USUAL_WORDS.items():
        if len(folded & set(words)) == 1:
            split_of |= {name: split for name, word in trimmed.items() if word.casefold() in words}
    return split_of


def describe_changes(split_of: Mapping[str, str]) -> str:
    """Returns which names are read as others, as "`Train` is read as train"; empty if none is."""
    return ", ".join(f"`{name}` is read as {split}" for name, split in split_of.items() if name != split)
