"""What is due after which step: records, evaluations, checkpoints."""

from dataclasses import dataclass

from matl_scale.errors import InputError
from matl_scale.metrics.names import RANKED_SUMMARIES


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When checkpoints are written."""

    every: int = 500
    """Steps between checkpoints; there is always one at the end."""
    keep: int = 2
    """How many to keep; the oldest go first."""
    best: str = "macro_balanced_accuracy"
    """Summary over the tasks of `eval.split`, the higher the better: the network of the evaluation where it was highest stays in
    the run's folder `best`. Empty keeps none."""

    def __post_init__(self) -> None:
        for key, value in (("every", self.every), ("keep", self.keep)):
            if value < 1:
                raise InputError(f"`checkpoint.{key}` should be at least 1. Got {value}.")
        if self.best and self.best not in RANKED_SUMMARIES:
            raise InputError(
                f"`checkpoint.best` should be one of {', '.join(RANKED_SUMMARIES)}, or empty. Got {self.best!r}."
            )


def is_due(step: int, every: int) -> bool:
    """Returns whether something that happens every `every` steps happens after `step`; never if `every` is 0."""
    return every > 0 and step % every == 0
