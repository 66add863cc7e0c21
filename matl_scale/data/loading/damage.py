"""Damaged samples while reading: skipped, counted, named; too many stop the run."""

from collections import Counter
from collections.abc import Iterable

from matl_scale.data.shards.reader import Damage
from matl_scale.errors import InputError, shortened


class DamageLog:
    """The damaged samples of a split that all ranks together have met; equal on all of them.

    Args:
        split: Its name.
        num_samples: It has.
        max_share: Share of them that may be damaged.
        place: The shard set, for error messages.
    """

    def __init__(self, split: str, num_samples: int, max_share: float, place: str) -> None:
        self.split, self.num_samples, self.max_share, self.place = split, num_samples, max_share, place
        self.found: dict[int, Damage] = {}

    def add(self, damages: Iterable[Damage]) -> list[Damage]:
        """Notes damaged samples, and returns those that were not known yet."""
        new = []
        for damage in damages:
            if damage.row not in self.found:
                self.found[damage.row] = damage
                new.append(damage)
        return new

    def check(self) -> None:
        """Raises `InputError` if more than `max_share` of the split are damaged."""
        if len(self.found) > self.max_share * self.num_samples:
            raise InputError(
                f"{self.describe()}: more than `data.max_damaged` = {self.max_share:g} of the split. `matl-data verify "
                f"{self.place}` checks all; prepare the set again, or allow more."
            )

    def describe(self) -> str:
        """Says in one line how many there are, in which shards, and the first few."""
        shards = Counter(damage.file for damage in self.found.values())
        counts = ", ".join(f"{file} {count}" for file, count in shards.most_common(5))
        return (
            f"{len(self.found)} of {self.num_samples} samples of split `{self.split}` of {self.place} are damaged (by shard: "
            f"{counts}): {shortened(self.found.values(), 3)}"
        )
