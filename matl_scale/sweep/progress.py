"""What a sweep says of its runs while it is under way."""

import time
from collections.abc import Callable

from matl_scale.errors import InputError
from matl_scale.metrics.names import METRIC_LABELS
from matl_scale.runs.history import RunHistory
from matl_scale.runs.sweep_folder import Outcome, PlannedRun, SweepFolder, SweepPlan

SHOWN_METRIC = "decided_balanced_accuracy"


class SweepProgress:
    """Says how each run ended, with its main figure, and how long the rest will take.

    Args:
        folder: The sweep's folder.
        plan: Its plan.
        num_waiting: How many runs have no outcome yet.
        say: Prints a line.
    """

    def __init__(self, folder: SweepFolder, plan: SweepPlan, num_waiting: int, say: Callable[[str], None]) -> None:
        self.folder, self.plan, self.say = folder, plan, say
        self._total, self._done_before = len(plan.runs), len(plan.runs) - num_waiting
        self._done, self._start = 0, time.monotonic()

    def end(self, run: PlannedRun) -> None:
        """Says how a run has ended."""
        outcome = self.folder.read_outcome(run)
        assert outcome is not None
        self._done += 1
        number = self._done_before + self._done
        left = self._total - number
        per_run_s = (time.monotonic() - self._start) / self._done
        rest = f"; about {describe_seconds(left * per_run_s)} left" if left else ""
        self.say(f"[{number}/{self._total}] {run.name}: {self.describe(run, outcome)}{rest}")

    def describe(self, run: PlannedRun, outcome: Outcome) -> str:
        """Says in a line how a run went."""
        if outcome.status == "failed":
            return f"failed: {outcome.reason} (see {self.folder.log_file(run)})"
        try:
            summary = RunHistory(self.folder.run_folder(run)).latest(self.plan.split).metrics.summary()
            figure = f"{METRIC_LABELS[SHOWN_METRIC]} {summary[f'macro_{SHOWN_METRIC}']:.4f} on {self.plan.split}"
        except (InputError, KeyError):
            figure = f"finished, without {METRIC_LABELS[SHOWN_METRIC]}"
        return f"{figure} after {outcome.passes:.3g} passes, {describe_seconds(outcome.seconds)} of steps"


def describe_seconds(seconds: float) -> str:
    """Returns a duration for people."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
