"""Under which keys metrics are stored in MLflow, whatever tasks and splits are called.

A metric is named `GROUP/METRIC`, its group being `task/NAME`, a split or `train`. A group that MLflow accepts is kept. Any other
keeps what is accepted of it and ends with a short hash of its name, so that two groups never share their keys, also in a
database that does not tell `A` from `a` (MySQL's default).
"""

import hashlib
import unicodedata
from collections.abc import Iterable

KEY_LENGTH = 250  # the longest that MLflow accepts
MAX_GROUP_LENGTH = KEY_LENGTH - len("/median_average_precision")  # no metric has a longer name
PUNCTUATION = "_-./ :"  # that MLflow accepts beside letters and digits of any script


class MetricKeys:
    """The keys of one run's metrics. `groups` has the keys of groups by their names: it grows with every new group, and is kept
    with the run, so that a metric has one key for the life of the run."""

    def __init__(self, groups: dict[str, str]) -> None:
        self.groups = groups
        self._taken = set(map(fold_key, groups.values()))

    def __getitem__(self, name: str) -> str:
        """Returns the key of a metric, or of a tag that is named alike."""
        group, slash, metric = name.rpartition("/")
        return self._group_key(group) + slash + metric if slash else name

    def _group_key(self, group: str) -> str:
        if group not in self.groups:
            key = group_key(group)
            if fold_key(key) in self._taken:
                key = add_hash(key, group)
            self.groups[group] = key
            self._taken.add(fold_key(key))
        return self.groups[group]


def keys_of_earlier_version(names: Iterable[str]) -> dict[str, str]:
    """Returns the keys of groups of which a copy was begun by a version that had no hashes: names that it did not change."""
    groups: dict[str, bool] = {}
    for name in names:
        group = name.rpartition("/")[0]
        groups[group] = groups.get(group, True) and name.isascii() and is_accepted(name)
    return {group: group for group, unchanged in groups.items() if group and unchanged}


def group_key(group: str) -> str:
    """Returns the key of a group: its name if MLflow accepts it, else the accepted characters of its name and a hash."""
    if is_accepted(group) and len(group) <= MAX_GROUP_LENGTH:
        return group
    composed = unicodedata.normalize("NFC", group)
    replaced = "".join(each if is_accepted_character(each) else "_" for each in composed)
    return add_hash("/".join("_" if part.strip(".") == "" else part for part in replaced.split("/")), group)


def is_accepted(name: str) -> bool:
    """Returns whether MLflow takes a name as a key: its length, its characters, and no part of its path empty, `.` or `..`."""
    has_bad_part = any(part in ("", ".", "..") for part in name.split("/")) or name.startswith("..")
    return len(name) <= KEY_LENGTH and all(map(is_accepted_character, name)) and not has_bad_part


def is_accepted_character(character: str) -> bool:
    return character.isalnum() or character in PUNCTUATION


def add_hash(key: str, group: str) -> str:
    """Returns a key, cut where it is too long, that ends with eight digits which tell its group from others."""
    mark = f"-{hashlib.sha256(group.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"
    return key[: MAX_GROUP_LENGTH - len(mark)] + mark


def fold_key(key: str) -> str:
    """Returns what a database compares that ignores case, accents and blanks at the end."""
    plain = "".join(each for each in unicodedata.normalize("NFKD", key) if not unicodedata.combining(each))
    return plain.casefold().rstrip()
