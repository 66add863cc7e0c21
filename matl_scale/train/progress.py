"""What a person sees while a run goes on: a bar on a terminal, plain lines in a log, a table at the end."""

import time
from collections.abc import Sequence
from types import TracebackType

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from matl_scale.task_metrics import TaskMetrics

LINE_EVERY_S = 10.0
TABLE_METRICS = ("balanced_accuracy", "accuracy", "majority_accuracy", "auroc", "average_precision")


class TrainProgress:
    """Shows steps, loss, images/s, the share of time spent waiting for data, and the time left.

    Args:
        first_step: Steps done already.
        num_steps: Of the whole run.
        enabled: False on all ranks but the first.
    """

    def __init__(self, first_step: int, num_steps: int, enabled: bool) -> None:
        self.enabled, self.num_steps = enabled, num_steps
        self.console = Console(stderr=True, quiet=not enabled)
        self._start, self._first = time.monotonic(), first_step
        self._last_line = self._start
        self._bar: Progress | None = None
        if enabled and self.console.is_terminal:
            columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[text]}"), TimeRemainingColumn())
            self._bar = Progress(*columns, console=self.console)
            self._task = self._bar.add_task("", total=num_steps, completed=first_step, text="")

    def __enter__(self) -> "TrainProgress":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def step(self, step: int, loss: float, images_per_s: float, wait_share: float) -> None:
        """Shows the state after `step` steps."""
        text = f"loss {loss:.4f}  {images_per_s:,.0f} images/s  data wait {wait_share:.0%}"
        if self._bar:
            self._bar.update(self._task, completed=step, text=text)
            return
        now = time.monotonic()
        if now - self._last_line >= LINE_EVERY_S or step == self.num_steps:
            self._last_line = now
            left = (now - self._start) / max(step - self._first, 1) * (self.num_steps - step)
            self.say(f"step {step}/{self.num_steps}  {text}  {left:.0f} s left")

    def say(self, text: str) -> None:
        """Prints one line, above the bar if there is one."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)


def print_results(
    console: Console, tasks: Sequence[str], split: str, step: int, metrics: TaskMetrics, limit: int = 10
) -> None:
    """Prints the summary over tasks and the `limit` worst tasks."""
    summary = metrics.summary()
    title = f"{split} after {step} steps: {int(summary['tasks_evaluated'])} tasks"
    overall = Table(title=title, box=None, header_style="bold", title_justify="left")
    for column in ("over tasks", "balanced accuracy", "AUROC", "average precision", "accuracy"):
        overall.add_column(column, justify="left" if column == "over tasks" else "right")
    for name, label in (("macro", "mean"), ("median", "median"), ("p10", "10th percentile"), ("worst", "worst")):
        cells = (
            summary[f"{name}_{metric}"] for metric in ("balanced_accuracy", "auroc", "average_precision", "accuracy")
        )
        overall.add_row(label, *(format_value(cell) for cell in cells))
    console.print(overall)
    worst = Table(title=f"worst {limit} by balanced accuracy", box=None, header_style="bold", title_justify="left")
    worst.add_column("task", no_wrap=True)
    for column in ("samples", *(name.replace("_", " ") for name in TABLE_METRICS)):
        worst.add_column(column, justify="right")
    for task_id in metrics.worst(limit):
        values = (format_value(metrics.values[name][task_id]) for name in TABLE_METRICS)
        worst.add_row(escape(tasks[task_id]), f"{metrics.counts[task_id]:,}", *values)
    console.print(worst)
    below = np.flatnonzero(metrics.below_baseline)
    names = (
        ": " + ", ".join(tasks[i] for i in below[:limit]) + (", …" if len(below) > limit else "") if len(below) else ""
    )
    line = f"tasks below the majority baseline: {len(below)} of {len(tasks)}{names}"
    console.print(line, highlight=False, markup=False, soft_wrap=True)


def format_value(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.4f}"
