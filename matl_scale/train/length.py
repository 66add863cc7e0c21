"""How many steps a run has, and how long they take.

A run has a number of steps, which no clock changes; or, with `train.minutes`, as many as there is time for: the clock of the
first rank then decides, at steps that all ranks agree on.
"""

from dataclasses import dataclass

FIRST_STEPS = 3  # of a start; they are slower than the others
RECENT_STEPS = 100  # over about so many steps is the time of a step averaged: the speed of a shared machine changes
FIRST_FIT = 10  # after so many steps of a start is it known how long the run takes
TOLERANCE = 1e-9  # of a share of a run: 0.3 of 10 steps are 3
PARTS_TO_FIT = 50  # after each of so many parts of the run is it fitted again


@dataclass
class Length:
    """The number of steps of a run. When it changes, the share of the run that is done stays."""

    num_steps: int = 0
    seconds: float = 0.0  # that the steps should take in all; 0 if the number of steps is fixed
    fitted_at: int = 0  # the step at which the number was set
    progress_then: float = 0.0  # the share of the run, 0 to 1, that was done then
    progress_before: float = 0.0  # the share that was done a step before

    def progress(self, step: int) -> float:
        """Returns the share of the run, 0 to 1, that is done after `step` steps; these are not fewer than at the last fit."""
        done = (step - self.fitted_at) / max(self.num_steps - self.fitted_at, 1)
        return min(self.progress_then + (1 - self.progress_then) * done, 1.0)

    def step_at(self, share: float) -> float:
        """Returns after how many steps a share of the run is done, by the length that it has now: the inverse of `progress`. If
        that was before the last fit, it is about when."""
        if share <= self.progress_then:
            return self.fitted_at * share / self.progress_then if self.progress_then else 0.0
        left = (share - self.progress_then) / (1 - self.progress_then)
        return self.fitted_at + left * (self.num_steps - self.fitted_at)

    def completes_part(self, step: int, parts: int) -> bool:
        """Returns whether step number `step` completes one of so many equal parts of the run."""
        before = self.progress_before if step == self.fitted_at else self.progress(step - 1)
        return int(self.progress(step) * parts + TOLERANCE) > int(before * parts + TOLERANCE)

    def fit(self, step: int, num_steps: int) -> None:
        """Sets the number of steps anew, after `step` steps."""
        self.progress_before = self.progress(step - 1)
        self.progress_then, self.fitted_at = self.progress(step), step
        self.num_steps = max(num_steps, step)

    def resume(self, saved: "Length", step: int, spent_s: float) -> None:
        """Continues a run of so many minutes after `step` steps, which took `spent_s` seconds: with the number of steps that its
        checkpoint has, or, if it had another length then, with as many as there is time for at that speed."""
        if not self.seconds:
            return
        if saved.seconds == self.seconds:
            self.num_steps, self.fitted_at = saved.num_steps, saved.fitted_at
            self.progress_then, self.progress_before = saved.progress_then, saved.progress_before
        elif spent_s:
            self.num_steps = max(step, round(self.seconds * step / spent_s))


@dataclass(frozen=True, kw_only=True)
class FirstPart:
    """The first part of a run, in which something is done in another way: a pure function of the step and the run's length."""

    share: float  # of the run; 0 has no such part
    length: Length  # of the run

    def is_over(self, step: int) -> bool:
        """Returns whether the step that follows `step` steps is behind this part."""
        return self.length.progress(step) >= self.share - TOLERANCE


@dataclass
class Clock:
    """How long the steps of a run have taken on this rank, in all its starts, without evaluations and checkpoints."""

    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.steps = 0  # of this start
        self.step_s = 0.0  # seconds per step, of late

    def restart(self) -> None:
        """Forgets how long a step takes, because the next ones take another time."""
        self.steps, self.step_s = 0, 0.0

    def add(self, passed_s: float) -> None:
        """Adds a step that took so many seconds."""
        self.seconds += passed_s
        self.steps += 1
        weight = 1 / min(max(self.steps - FIRST_STEPS, 1), RECENT_STEPS)
        self.step_s += (passed_s - self.step_s) * weight

    def steps_within(self, seconds: float) -> int:
        """Returns for how many more steps there is time, until the run's steps have taken so many seconds."""
        return max(0, round((seconds - self.seconds) / max(self.step_s, 1e-9)))
