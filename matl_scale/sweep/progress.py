"""What a sweep says of its runs and searches while it is under way."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matl_scale.errors import InputError
from matl_scale.metrics.names import METRIC_LABELS
from matl_scale.progress import format_duration
from matl_scale.runs.history import RunHistory
from matl_scale.runs.sweep_folder import Outcome, PlannedRun, Search, SearchOutcome, SweepFolder, SweepPlan, Work
from matl_scale.sweep.tuning.space import SEARCHED
from matl_scale.text import count_of

SHOWN_METRIC = "decided_balanced_accuracy"


class SweepProgress:
    """Says how each run ended, with its main figure, and how long the rest will take; a search takes as long as its trials.

    Args:
        folder: The sweep's folder.
        plan: Its plan.
        waiting: The searches and runs that have no outcome yet.
        say: Prints a line.
    """

    def __init__(
        self, folder: SweepFolder, plan: SweepPlan, waiting: Sequence[Work], say: Callable[[str], None]
    ) -> None:
        self.folder, self.plan, self.say = folder, plan, say
        self._runs_left = sum(isinstance(work, PlannedRun) for work in waiting)
        self._left, self._done, self._start = sum(map(self._trainings, waiting)), 0, time.monotonic()

    def _trainings(self, work: Work) -> int:
        return (
            len(self.plan.runs_of(work.variant)) // len(self.plan.seeds) * self.plan.tune
            if isinstance(work, Search)
            else 1
        )

    def end(self, work: Work) -> None:
        """Says how a run or a search has ended."""
        outcome, trainings = self.folder.read_ending(work), self._trainings(work)
        self._done, self._left = self._done + trainings, self._left - trainings
        self._runs_left -= isinstance(work, PlannedRun)
        if outcome is None:  # it had failed, and another process has begun to try it again
            return
        per_training_s = (time.monotonic() - self._start) / self._done
        rest = f"; about {format_duration(self._left * per_training_s)} left" if self._left else ""
        if isinstance(outcome, SearchOutcome):
            self.say(f"{work.variant}: {self.describe_search(work, outcome)}{rest}")
            return
        assert isinstance(work, PlannedRun)
        total = len(self.plan.runs)
        self.say(f"[{total - self._runs_left}/{total}] {work.name}: {self.describe(work, outcome)}{rest}")

    def describe_search(self, search: Work, outcome: SearchOutcome) -> str:
        """Says in a line what a search has found."""
        if outcome.status == "failed":
            return f"the search failed: {outcome.reason} (see {self.folder.log_file(search)})"
        if outcome.value is None:
            return "there is nothing to search"
        return f"the best of {outcome.describe_trials()} has {describe_settings(outcome.tuned)}"

    def describe(self, run: PlannedRun, outcome: Outcome) -> str:
        """Says in a line how a run went."""
        if outcome.status == "failed":
            return f"failed: {outcome.reason} (see {self.folder.log_file(run)})"
        try:
            summary = RunHistory(self.folder.run_folder(run)).latest(self.plan.split).metrics.summary()
            figure = f"{METRIC_LABELS[SHOWN_METRIC]} {summary[f'macro_{SHOWN_METRIC}']:.4f} on {self.plan.split}"
        except (InputError, KeyError):
            figure = f"finished, without {METRIC_LABELS[SHOWN_METRIC]}"
        return f"{figure} after {count_of(outcome.passes, 'pass', '.3g')}, {format_duration(outcome.seconds)} of steps"


def describe_settings(settings: Mapping[str, Any]) -> str:
    """Returns what a search has found, without what follows from it."""
    listed = [f"{key}={settings[key]:.3g}" for key in SEARCHED if key in settings]
    return ", ".join(listed) or "what the rules choose"
