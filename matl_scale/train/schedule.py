"""What is due after which step. Everywhere `step` is the number of optimizer steps done."""

from dataclasses import dataclass

from matl_scale.automatic import AUTO, Auto
from matl_scale.errors import InputError, check_at_least, nearest
from matl_scale.metrics.names import RANKED_SUMMARIES
from matl_scale.train.length import Length

CHECKPOINT_EVERY_S = 600.0  # with `auto`, at most
PARTS = 5  # of a run, after which `auto` evaluates and saves


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When checkpoints are written."""

    every: int | Auto = "auto"
    """Steps between checkpoints; there is always one at the end. `auto`: after each fifth of the run, and every ten minutes."""
    keep: int = 2
    """How many checkpoints to keep; the oldest are deleted first."""
    best: str = "auto"
    """Summary over the tasks of `eval.split`, the higher the better: the network of the evaluation where it was highest
    stays in the run's folder `best`. `auto`: macro_decided_balanced_accuracy; where half of the tasks have fewer than 20 samples
    of their rarest class in the split, macro_average_precision, which needs no threshold. Empty keeps none."""

    def __post_init__(self) -> None:
        check_at_least(1, {"checkpoint.every": self.every, "checkpoint.keep": self.keep})
        if self.best not in ("", AUTO, *RANKED_SUMMARIES):
            raise InputError(
                f"`checkpoint.best` should be auto, one of {', '.join(RANKED_SUMMARIES)}, or empty. Got {self.best!r}."
                + nearest(self.best, RANKED_SUMMARIES)
            )


@dataclass(kw_only=True)
class Schedule:
    """After which steps of a run something is due."""

    length: Length  # of the whole run; a run of so many minutes changes it
    record_every: int  # steps between records of loss and throughput
    evaluate_every: (
        int | Auto
    )  # steps between evaluations; 0 evaluates after the last step only, `auto` after equal parts
    checkpoint_every: (
        int | Auto
    )  # steps between checkpoints; `auto` writes them with the evaluations of `auto`, and by the clock
    compare_every: int  # steps between comparisons of the replicas; 0 never compares them
    clock_every: int = 0  # steps between the checkpoints of `auto`, once it is known how long a step takes

    @property
    def num_steps(self) -> int:
        return self.length.num_steps

    def is_last(self, step: int) -> bool:
        return step >= self.num_steps

    def is_recorded_after(self, step: int) -> bool:
        return is_due(step, self.record_every) or self.is_last(step)

    def is_evaluated_after(self, step: int) -> bool:
        return step > 0 and (step == self.num_steps or self._is_due(step, self.evaluate_every))

    def is_saved_after(self, step: int) -> bool:
        by_clock = self.checkpoint_every == AUTO and is_due(step, self.clock_every)
        return by_clock or self.is_last(step) or self._is_due(step, self.checkpoint_every)

    def is_compared_after(self, step: int) -> bool:
        return is_due(step, self.compare_every)

    def set_speed(self, step_s: float) -> None:
        """Says how many seconds a step takes, for the checkpoints that `auto` writes by the clock."""
        self.clock_every = steps_within(CHECKPOINT_EVERY_S, step_s)

    def steps_to_checkpoint(self, step: int, step_s: float) -> int:
        """Returns how many steps there are at most from `step` to the next checkpoint, if a step takes `step_s` seconds."""
        every = self.checkpoint_every
        if every == AUTO:  # the clock counts from the first steps of a start on, a record may come before
            every = self.clock_every or steps_within(CHECKPOINT_EVERY_S, step_s)
        return min(every, self.num_steps - step)

    def _is_due(self, step: int, every: int | Auto) -> bool:
        return self.length.completes_part(step, PARTS) if every == AUTO else is_due(step, every)


def steps_within(seconds: float, step_s: float) -> int:
    """Returns how many steps of `step_s` seconds there are in so many seconds, at least one."""
    return max(1, round(seconds / max(step_s, 1e-9)))


def is_due(step: int, every: int) -> bool:
    """Returns whether something that happens every `every` steps happens after `step`; never if `every` is 0."""
    return every > 0 and step % every == 0
