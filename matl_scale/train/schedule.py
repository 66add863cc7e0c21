"""What is due after which step. Everywhere `step` is the number of optimizer steps done."""

from dataclasses import dataclass

from matl_scale.errors import InputError, check_at_least
from matl_scale.metrics.names import RANKED_SUMMARIES


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When checkpoints are written."""

    every: int = 500
    """Steps between checkpoints; there is always one at the end."""
    keep: int = 2
    """How many checkpoints to keep; the oldest are deleted first."""
    best: str = "macro_decided_balanced_accuracy"
    """Summary over the tasks of `eval.split`, the higher the better: the network of the evaluation where it was highest
    stays in the run's folder `best`. Empty keeps none."""

    def __post_init__(self) -> None:
        check_at_least(1, {"checkpoint.every": self.every, "checkpoint.keep": self.keep})
        if self.best and self.best not in RANKED_SUMMARIES:
            raise InputError(
                f"`checkpoint.best` should be one of {', '.join(RANKED_SUMMARIES)}, or empty. Got {self.best!r}."
            )


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """After which steps of a run something is due."""

    num_steps: int  # optimizer steps of the whole run
    record_every: int  # steps between records of loss and throughput
    evaluate_every: int  # steps between evaluations; 0 evaluates after the last step only
    checkpoint_every: int  # steps between checkpoints
    compare_every: int  # steps between comparisons of the replicas; 0 never compares them

    def is_last(self, step: int) -> bool:
        return step >= self.num_steps

    def is_recorded_after(self, step: int) -> bool:
        return is_due(step, self.record_every) or self.is_last(step)

    def is_evaluated_after(self, step: int) -> bool:
        return step > 0 and (is_due(step, self.evaluate_every) or step == self.num_steps)

    def is_saved_after(self, step: int) -> bool:
        return is_due(step, self.checkpoint_every) or self.is_last(step)

    def is_compared_after(self, step: int) -> bool:
        return is_due(step, self.compare_every)


def is_due(step: int, every: int) -> bool:
    """Returns whether something that happens every `every` steps happens after `step`; never if `every` is 0."""
    return every > 0 and step % every == 0
