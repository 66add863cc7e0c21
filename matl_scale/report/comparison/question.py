"""What is asked of a comparison: the options of the command that concern it."""

from collections.abc import Sequence
from dataclasses import dataclass

from matl_scale.metrics.names import PairedMetric


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked of a comparison.

    Attributes:
        split: What was evaluated.
        metric: What is compared.
        alpha: The false discovery rate.
        patterns: Which tasks; all if empty.
        common_tasks: Leave out tasks that not all runs have with equal labels, instead of refusing.
    """

    split: str
    metric: PairedMetric
    alpha: float
    patterns: Sequence[str] = ()
    common_tasks: bool = False
