"""What is asked of a comparison: the options of the command that concern it."""

from collections.abc import Sequence
from dataclasses import dataclass

from matl_scale.metrics.names import PairedMetric


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked of a comparison."""

    split: str  # what was evaluated
    metric: PairedMetric  # what is compared
    alpha: float  # the false discovery rate
    patterns: Sequence[str] = ()  # which tasks; all if empty
    common_tasks: bool = False  # leave out tasks that not all runs have with equal labels, instead of refusing
