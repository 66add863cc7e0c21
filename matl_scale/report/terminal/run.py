"""One run's last evaluation in a terminal. Training and evaluation print it too, so it needs no optional package."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

from matl_scale.display import show_name
from matl_scale.metrics.names import (
    MAIN_METRIC,
    METRIC_LABELS,
    POSITIVE_NOTE,
    SUMMARIES,
    SUMMARY_COLUMNS,
    TASK_COLUMNS,
)
from matl_scale.metrics.task_metrics import describe_means, describe_not_learned
from matl_scale.report.decisions import describe_decisions, describe_notes
from matl_scale.report.facts import RunFacts, collect_facts
from matl_scale.report.mask_association import summarise_following
from matl_scale.report.terminal.console import build_table, format_value, list_names, print_line, print_table
from matl_scale.report.undefined import find_undefined
from matl_scale.runs.history import RunHistory
from matl_scale.runs.routes import describe_routes

MAX_DRAWS_LISTED = 3


def print_latest(console: Console, folder: Path, split: str, limit: int = 10) -> RunFacts:
    """Prints the last evaluation of a split, from a run's folder, and returns what was printed."""
    facts = collect_facts(RunHistory(folder), split)
    print_run(console, facts, limit)
    return facts


def print_run(console: Console, facts: RunFacts, limit: int) -> None:
    """Prints one run's last evaluation; lists of tasks have at most `limit` entries."""
    print_summary(console, facts, limit)
    print_worst(console, facts, limit)
    print_changes(console, facts, limit)
    print_undefined(console, facts, limit)
    print_draws(console, facts, limit)


def print_summary(console: Console, facts: RunFacts, limit: int) -> None:
    latest, metrics = facts.latest, facts.latest.metrics
    summary = metrics.summary()
    title = f"{show_name(facts.run.name)}: {show_name(latest.split)} after {latest.step:,} steps"
    title += f", {int(summary['tasks_evaluated'])} tasks"
    columns = metrics.measured(SUMMARY_COLUMNS)
    table = build_table("over tasks", *(METRIC_LABELS[name] for name in columns))
    for kind, label in SUMMARIES.items():
        table.add_row(label, *(format_value(summary.get(f"{kind}_{name}", np.nan)) for name in columns))
    print_table(console, title, table)
    if limited := describe_means(metrics):
        print_line(console, limited)
    print_line(console, f"tasks {describe_not_learned(metrics, latest.tasks)}")
    if (decisions := facts.run.decisions) is not None:
        print_line(console, f"decisions {describe_decisions(decisions)}")
        for line in describe_notes(decisions, limit):
            print_line(console, f"  {line}")
    print_line(console, describe_routes(facts.run.routes))
    if following := summarise_following(facts.run, sorted(facts.run.route_of)):
        print_line(console, following)


def print_worst(console: Console, facts: RunFacts, limit: int) -> None:
    metrics = facts.latest.metrics
    worst = metrics.worst(limit)
    columns = metrics.measured(TASK_COLUMNS)
    titles = ("samples", *(METRIC_LABELS[name] for name in columns))
    positives = facts.run.positives
    more_names = [*route_titles(facts), *(["positive"] if positives else [])]
    table = build_table("task", *titles, more_names=more_names)
    for i in worst:
        values = (format_value(metrics.values[name][i]) for name in columns)
        positive = [positives.get(facts.latest.tasks[i], "")] if positives else []
        table.add_row(*name_task(facts, i), *positive, f"{metrics.counts[i]:,}", *values)
    print_table(console, f"worst {len(worst)} by {METRIC_LABELS[MAIN_METRIC]}", table)
    if positives:
        print_line(console, POSITIVE_NOTE)


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
        table = build_table("task", "before", "now", "change", more_names=route_titles(facts))
        for i in largest:
            change = facts.change.values[i]
            values = (format_value(now[i] - change), format_value(now[i]), format_value(change, "+.4f"))
            table.add_row(*name_task(facts, i), *values)
        print_table(console, f"greatest {word} in {METRIC_LABELS[MAIN_METRIC]} since step {since:,}", table)


def route_titles(facts: RunFacts) -> list[str]:
    """Returns the title of the column of routes; empty if every task has its own."""
    return ["route"] if facts.run.shares_routes else []


def name_task(facts: RunFacts, task_id: int) -> list[str]:
    """Returns the name of a task, and of its route if tasks share routes."""
    name = facts.latest.tasks[task_id]
    return [name, facts.run.route_of[name]] if facts.run.shares_routes else [name]


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
        print_line(console, f"  {reason}, so no {metrics}: {list_names(names, limit)}")


def print_draws(console: Console, facts: RunFacts, limit: int) -> None:
    """Prints which routes were drawn least and most often, and which tasks were trained on the fewest and most labels."""
    latest, run = facts.latest, facts.run
    if latest.draws is None:
        print_line(console, "draws per task are not known (no draws.parquet)")
    elif run.shares_routes:
        draws = dict(zip(map(run.route_of.__getitem__, latest.tasks), latest.draws.tolist(), strict=True))
        print_extremes(console, "draws per route", list(draws), np.array(list(draws.values())), limit)
    else:
        print_extremes(console, "draws per task", latest.tasks, latest.draws, limit)
    if latest.labels_seen is not None:
        print_extremes(console, "labels seen per task", latest.tasks, latest.labels_seen, limit)


def print_extremes(console: Console, title: str, names: Sequence[str], counts: np.ndarray, limit: int) -> None:
    """Prints the names with the smallest and the largest counts."""
    if len(names) > 1 and counts.min() == counts.max():
        print_line(console, f"{title}: {counts[0]:,} each")
        return
    order, count = np.argsort(counts, kind="stable"), min(limit, MAX_DRAWS_LISTED)
    least, most = (
        ", ".join(f"{show_name(names[i])} {counts[i]:,}" for i in chosen)
        for chosen in (order[:count], order[::-1][:count])
    )
    print_line(console, f"{title}: least {least}; most {most}")
