"""One run in a terminal: a few lines and short tables; the rest is in the page and in the JSON file."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from matl_scale.errors import shortened
from matl_scale.report.facts import MAIN, METRIC_NAMES, RunFacts, collect_facts
from matl_scale.report.single_run import find_undefined, metrics_of, moved_most
from matl_scale.task_metrics import SUMMARIES
from matl_scale.tracking.history import RunHistory

FILE_WIDTH = 160  # columns where no terminal says how many there are
TASK_COLUMNS = (MAIN, "accuracy", "majority_accuracy", "auroc", "average_precision")


def build_console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=FILE_WIDTH)


def say(console: Console, text: str) -> None:
    """Prints a line as it is, however long."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def build_table(first: str, *others: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column(first, no_wrap=True, overflow="ellipsis")
    for name in others:
        table.add_column(name, justify="right")
    return table


def print_table(console: Console, title: str, table: Table) -> None:
    console.print(title, style="italic", highlight=False, markup=False, soft_wrap=True)
    console.print(table)


def cell(value: float, pattern: str = ".4f") -> str:
    return "" if np.isnan(value) else format(value, pattern)


def print_latest(console: Console, folder: Path, split: str, limit: int = 10) -> None:
    """Prints the last evaluation of a split, from a run's folder."""
    facts = collect_facts(RunHistory(folder), split)
    print_run(console, facts, range(len(facts.latest.tasks)), limit)


def print_run(console: Console, facts: RunFacts, rows: Sequence[int], limit: int) -> None:
    """Prints one run's last evaluation."""
    print_summary(console, facts, rows)
    print_worst(console, facts, rows, limit)
    print_changes(console, facts, rows, limit)
    print_undefined(console, facts, rows, limit)
    print_draws(console, facts, rows, limit)


def print_summary(console: Console, facts: RunFacts, rows: Sequence[int]) -> None:
    metrics, latest = metrics_of(facts, rows), facts.latest
    summary = metrics.summary()
    title = f"{facts.run.name}: {latest.split} after {latest.step:,} steps, {int(summary['tasks_evaluated'])} tasks"
    table = build_table("over tasks", *METRIC_NAMES.values())
    for key, label in SUMMARIES.items():
        table.add_row(label, *(cell(summary[f"{key}_{metric}"]) for metric in METRIC_NAMES))
    print_table(console, title, table)
    below = [latest.tasks[rows[i]] for i in np.flatnonzero(metrics.below_baseline).tolist()]
    names = f": {shortened(below)}" if below else ""
    say(console, f"tasks below the majority baseline: {len(below)} of {len(rows)}{names}")


def print_worst(console: Console, facts: RunFacts, rows: Sequence[int], limit: int) -> None:
    metrics = metrics_of(facts, rows)
    worst = metrics.worst(limit)
    title = f"worst {len(worst)} by balanced accuracy"
    table = build_table("task", "samples", *(name.replace("_", " ") for name in TASK_COLUMNS))
    for i in worst:
        values = (cell(metrics.values[name][i]) for name in TASK_COLUMNS)
        table.add_row(escape(facts.latest.tasks[rows[i]]), f"{metrics.counts[i]:,}", *values)
    print_table(console, title, table)


def print_changes(console: Console, facts: RunFacts, rows: Sequence[int], limit: int) -> None:
    since = facts.change.since
    if since is None:
        say(console, f"{facts.latest.split} was evaluated once: there is no change to show")
        return
    now = facts.latest.metrics.values[MAIN]
    for gains, word in ((True, "gains"), (False, "losses")):
        moved = moved_most(facts, rows, limit, gains)
        if not moved:
            say(console, f"no {word} since step {since:,}")
            continue
        table = build_table("task", "before", "now", "change")
        for row in moved:
            change = facts.change.values[row]
            table.add_row(
                escape(facts.latest.tasks[row]), cell(now[row] - change), cell(now[row]), cell(change, "+.4f")
            )
        print_table(console, f"greatest {word} in balanced accuracy since step {since:,}", table)


def print_undefined(console: Console, facts: RunFacts, rows: Sequence[int], limit: int) -> None:
    undefined = find_undefined(facts, rows)
    if not undefined:
        return
    alike: dict[tuple[str, str], list[str]] = {}
    for each in undefined:
        metrics = ", ".join(name.replace("_", " ") for name in each.metrics)
        alike.setdefault((each.reason, metrics), []).append(each.task)
    say(console, f"tasks with undefined values: {len(undefined)}")
    for (reason, metrics), names in alike.items():
        say(console, f"  {reason}, so no {metrics}: {shortened(names, limit)}")


def print_draws(console: Console, facts: RunFacts, rows: Sequence[int], limit: int) -> None:
    draws = facts.latest.draws
    if draws is None:
        say(console, "draws per task are not known (no draws.parquet)")
        return
    order = sorted(rows, key=lambda row: draws[row])
    least, most = order[: min(limit, 3)], order[::-1][: min(limit, 3)]
    parts = (", ".join(f"{facts.latest.tasks[row]} {draws[row]:,}" for row in chosen) for chosen in (least, most))
    say(console, "draws per task: least {}; most {}".format(*parts))


def say_rest(console: Console, number: int) -> None:
    if number > 0:
        say(console, f"  and {number} more: --limit shows more, --json all")
