"""One run's last evaluation in a terminal. Training and evaluation print it too, so it needs no optional package."""

from pathlib import Path

import numpy as np
from rich.console import Console

from matl_scale.errors import shortened
from matl_scale.metrics.names import MAIN_METRIC, MAIN_METRIC_LABELS, METRIC_LABELS, SUMMARIES, TASK_COLUMNS
from matl_scale.report.facts import RunFacts, collect_facts
from matl_scale.report.terminal.console import add_row, build_table, format_value, print_line, print_table
from matl_scale.report.undefined import find_undefined
from matl_scale.runs.history import RunHistory

MAX_DRAWS_LISTED = 3


def print_latest(console: Console, folder: Path, split: str, limit: int = 10) -> None:
    """Prints the last evaluation of a split, from a run's folder."""
    print_run(console, collect_facts(RunHistory(folder), split), limit)


def print_run(console: Console, facts: RunFacts, limit: int) -> None:
    """Prints one run's last evaluation; lists of tasks have at most `limit` entries."""
    print_summary(console, facts)
    print_worst(console, facts, limit)
    print_changes(console, facts, limit)
    print_undefined(console, facts, limit)
    print_draws(console, facts, limit)


def print_summary(console: Console, facts: RunFacts) -> None:
    latest, metrics = facts.latest, facts.latest.metrics
    summary = metrics.summary()
    title = f"{facts.run.name}: {latest.split} after {latest.step:,} steps, {int(summary['tasks_evaluated'])} tasks"
    table = build_table("over tasks", *MAIN_METRIC_LABELS.values())
    for kind, label in SUMMARIES.items():
        add_row(table, label, *(format_value(summary[f"{kind}_{metric}"]) for metric in MAIN_METRIC_LABELS))
    print_table(console, title, table)
    below = [latest.tasks[i] for i in np.flatnonzero(metrics.below_baseline)]
    names = f": {shortened(below)}" if below else ""
    print_line(console, f"tasks below the majority baseline: {len(below)} of {len(latest.tasks)}{names}")


def print_worst(console: Console, facts: RunFacts, limit: int) -> None:
    metrics = facts.latest.metrics
    worst = metrics.worst(limit)
    table = build_table("task", "samples", *(METRIC_LABELS[name] for name in TASK_COLUMNS))
    for i in worst:
        values = (format_value(metrics.values[name][i]) for name in TASK_COLUMNS)
        add_row(table, facts.latest.tasks[i], f"{metrics.counts[i]:,}", *values)
    print_table(console, f"worst {len(worst)} by {METRIC_LABELS[MAIN_METRIC]}", table)


def print_changes(console: Console, facts: RunFacts, limit: int) -> None:
    since = facts.change.since
    if since is None:
        print_line(console, f"{facts.latest.split} was evaluated once: there is no change to show")
        return
    now = facts.latest.metrics.values[MAIN_METRIC]
    for sign, word in ((1, "gains"), (-1, "losses")):
        largest = facts.change.largest(sign)[:limit]
        if not len(largest):
            print_line(console, f"no {word} since step {since:,}")
            continue
        table = build_table("task", "before", "now", "change")
        for i in largest:
            change = facts.change.values[i]
            values = (format_value(now[i] - change), format_value(now[i]), format_value(change, "+.4f"))
            add_row(table, facts.latest.tasks[i], *values)
        print_table(console, f"greatest {word} in {METRIC_LABELS[MAIN_METRIC]} since step {since:,}", table)


def print_undefined(console: Console, facts: RunFacts, limit: int) -> None:
    undefined = find_undefined(facts)
    if not undefined:
        return
    alike: dict[tuple[str, str], list[str]] = {}
    for each in undefined:
        metrics = ", ".join(METRIC_LABELS[name] for name in each.metrics)
        alike.setdefault((each.reason, metrics), []).append(each.task)
    print_line(console, f"tasks with undefined values: {len(undefined)}")
    for (reason, metrics), names in alike.items():
        print_line(console, f"  {reason}, so no {metrics}: {shortened(names, limit)}")


def print_draws(console: Console, facts: RunFacts, limit: int) -> None:
    draws, tasks = facts.latest.draws, facts.latest.tasks
    if draws is None:
        print_line(console, "draws per task are not known (no draws.parquet)")
        return
    order, count = np.argsort(draws, kind="stable"), min(limit, MAX_DRAWS_LISTED)
    least, most = (
        ", ".join(f"{tasks[i]} {draws[i]:,}" for i in chosen) for chosen in (order[:count], order[::-1][:count])
    )
    print_line(console, f"draws per task: least {least}; most {most}")
