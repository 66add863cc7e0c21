"""Damaged samples found while reading: skipped, counted and named; too many stop the run."""

from collections import Counter
from collections.abc import Iterable

from matl_scale.data.shards.reader import Damage
from matl_scale.errors import InputError, shortened


class DamageLog:
    """The damaged samples of a split that all ranks together have found; equal on all ranks.

    Of the split's `num_samples` samples, at most the share `max_share` may be damaged.
    """

    def __init__(self, split: str, num_samples: int, max_share: float, shard_set: str) -> None:
        self.split, self.num_samples, self.max_share, self.shard_set = split, num_samples, max_share, shard_set
        self.found: dict[int, Damage] = {}

    def add(self, damages: Iterable[Damage]) -> list[Damage]:
        """Records damaged samples, and returns those that are new."""
        new = []
        for damage in damages:
            if damage.sample_id not in self.found:
                self.found[damage.sample_id] = damage
                new.append(damage)
        return new

    def check(self) -> None:
        """Raises `InputError` if more than `max_share` of the split is damaged."""
        if len(self.found) > self.max_share * self.num_samples:
            raise InputError(
                f"{self.describe()}: more than `data.max_damaged` = {self.max_share:g} of the split. `matl-data verify "
                f"{self.shard_set}` checks all samples; prepare the set again, or allow more."
            )

    def describe(self) -> str:
        """Says in one line how many samples are damaged, in which shards, and names the first few."""
        shards = Counter(damage.file for damage in self.found.values())
        counts = ", ".join(f"{file} {count}" for file, count in shards.most_common(5))
        return (
            f"{len(self.found)} of {self.num_samples} samples of split `{self.split}` of {self.shard_set} are damaged (by "
            f"shard: {counts}): {shortened(self.found.values(), 3)}"
        )
