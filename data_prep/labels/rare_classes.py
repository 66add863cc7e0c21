"""Classes with too few labels to be learned: they become missing labels, or one class `other`, if the user asks for it."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from matl_scale.errors import shortened
from matl_scale.text import count_of

Rare = Literal["drop", "other"]
RARE: tuple[Rare, ...] = get_args(Rare)
OTHER = "other"
SHOWN_CLASSES = 5


@dataclass(frozen=True, kw_only=True)
class RareRule:
    """What becomes of classes with fewer than `min_count` labels in the file: missing labels, or the class `other`."""

    min_count: int = 1
    become: Rare = "drop"

    def apply(
        self, classes: Mapping[object, str], counts: Mapping[str, int], known: Collection[str] = ()
    ) -> tuple[dict[object, str], Counter[str]]:
        """Returns the class name of each stored value that is still a label, `other` last, and the counts of the rare classes.

        Args:
            classes: The class name of each stored value, in the order of the classes.
            counts: The number of labels of each class.
            known: The classes of the shard set that rows will join, which stay however rare they are.
        """
        new = [name for name in dict.fromkeys(classes.values()) if name not in known]
        rare = Counter({name: counts[name] for name in new if counts[name] < self.min_count})
        kept = {value: name for value, name in classes.items() if name not in rare}
        if self.become == "other":
            kept = {value: name for value, name in kept.items() if name != OTHER} | {
                value: OTHER for value, name in classes.items() if name in rare or name == OTHER
            }
        return kept, rare

    def describe(self, rare_of: Mapping[str, Mapping[str, int]]) -> list[str]:
        """Returns a line for each column with rare classes, which says what became of them."""
        become = "missing labels" if self.become == "drop" else f"class `{OTHER}`"
        return [
            f"column `{column}`: {count_of(len(rare), 'class')} with fewer than {self.min_count} labels became {become}: "
            + list_classes(rare)
            for column, rare in rare_of.items()
            if rare
        ]


def list_classes(counts: Mapping[str, int]) -> str:
    listed: Sequence[str] = [f"`{name}` ({count})" for name, count in Counter(counts).most_common()]
    return shortened(listed, SHOWN_CLASSES)
