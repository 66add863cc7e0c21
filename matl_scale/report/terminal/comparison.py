"""Comparisons of runs, and the spread over seeds, in a terminal."""

import numpy as np
from rich.console import Console

from matl_scale.display import show_name
from matl_scale.errors import shortened
from matl_scale.metrics.names import METRIC_LABELS
from matl_scale.report.comparison.results import SIGNIFICANT, VERDICTS, Comparison, SeedSpread, TaskDifference, Verdict
from matl_scale.report.terminal.console import (
    build_table,
    format_value,
    list_names,
    print_line,
    print_remaining,
    print_table,
)
from matl_scale.text import count_of

SIGNS: dict[Verdict, str] = {"improved": "↑", "regressed": "↓", "unchanged": "=", "undefined": "?"}
STYLES: dict[Verdict, str] = {"improved": "green", "regressed": "red", "unchanged": "", "undefined": "dim"}
INTERVAL = "95 % interval"
MAX_RUNS_LISTED = 5


def print_comparison(console: Console, comparison: Comparison, limit: int) -> None:
    """Prints the differences between A and B; lists of tasks have at most `limit` entries."""
    prefix = f"{comparison.name_a}: " if comparison.kind == "single-task" else ""
    print_line(console, f"A: {prefix}{shortened(comparison.runs_a, MAX_RUNS_LISTED)}")
    print_line(console, f"B: {shortened(comparison.runs_b, MAX_RUNS_LISTED)}")
    print_line(
        console,
        f"{comparison.split}, {METRIC_LABELS[comparison.metric]}, B − A, {count_of(len(comparison.tasks), 'task')}, "
        f"false discovery rate {comparison.alpha:g}",
    )
    for verdict in VERDICTS:
        tasks = comparison.with_verdict(verdict)
        names = f": {list_names((task.task for task in tasks), limit)}" if tasks else ""
        print_line(console, f"{SIGNS[verdict]} {comparison.heading(verdict)} {len(tasks)}{names}")
    print_differences(console, comparison, limit)
    print_reasons(console, comparison, limit)
    for title, lines in (("the configs differ in", comparison.config_changes), ("not compared", comparison.left_out)):
        if lines:
            print_line(console, f"{title}: {len(lines)}")
            for line in lines[:limit]:
                print_line(console, f"  {line}")
            print_remaining(console, len(lines) - limit)
    for note in comparison.notes:
        print_line(console, note)


def choose_tasks(comparison: Comparison, limit: int) -> list[TaskDifference]:
    """Returns the `limit` largest differences of each significant verdict, then unchanged tasks until there are `limit`."""
    chosen = [task for verdict in SIGNIFICANT for task in comparison.with_verdict(verdict)[:limit]]
    return chosen + comparison.with_verdict("unchanged")[: max(0, limit - len(chosen))]


def print_differences(console: Console, comparison: Comparison, limit: int) -> None:
    tasks = choose_tasks(comparison, limit)
    if not tasks:
        return
    sides = (("sd A", comparison.spread_a), ("sd B", comparison.spread_b))
    spreads = {title: spread for title, spread in sides if spread is not None}
    table = build_table("task", "A", "B", "B − A", INTERVAL, "adjusted p", "n", *spreads, "")
    index_of = {task.task: i for i, task in enumerate(comparison.tasks)}
    for task in tasks:
        values = (f"{task.value_a:.3f}", f"{task.value_b:.3f}", f"{task.difference:+.3f}")
        interval = f"{task.low:+.3f} to {task.high:+.3f}"
        p = "<0.0001" if task.p_adjusted < 1e-4 else f"{task.p_adjusted:.4f}"
        sds = [format_value(spread[index_of[task.task]], ".3f") for spread in spreads.values()]
        sign = SIGNS[task.verdict] + (" !" if task.reason else "  ")
        cells = (*values, interval, p, f"{task.count:,}", *sds, sign)
        table.add_row(task.task, *cells, style=STYLES[task.verdict])
    table.print(console)


def print_reasons(console: Console, comparison: Comparison, limit: int) -> None:
    """Says why tasks are undefined, and which of those listed call for caution."""
    undefined = comparison.with_verdict("undefined")
    for task in undefined[:limit]:
        print_line(console, f"  {show_name(task.task)} is undefined: {task.reason}")
    print_remaining(console, len(undefined) - limit)
    for task in choose_tasks(comparison, limit):
        if task.reason:
            print_line(console, f"  ! {show_name(task.task)}: {task.reason}")


def print_spread(console: Console, spread: SeedSpread, limit: int) -> None:
    """Prints how much the runs of one config differ."""
    means, metric = spread.run_means, METRIC_LABELS[spread.metric]
    over = "tasks" if spread.in_means.all() else f"{spread.in_means.sum()} of {count_of(len(spread.tasks), 'task')}"
    print_line(
        console,
        f"{count_of(len(spread.runs), 'run')} of one config on {spread.split}, {metric}: {', '.join(spread.runs)}",
    )
    print_line(
        console,
        f"mean over {over}: {means.mean():.4f}, sd over runs {means.std(ddof=1):.4f}, from {means.min():.4f} to "
        f"{means.max():.4f}",
    )
    columns = spread.over_runs
    listed = [i for i in spread.most_different_first() if np.isfinite(columns["sd"][i])][:limit]
    table = build_table("task", *columns)
    for i in listed:
        table.add_row(spread.tasks[i], *(format_value(column[i]) for column in columns.values()))
    print_table(console, f"the {len(listed)} tasks that differ most between runs", table)
    if spread.left_out:
        print_line(console, f"not compared: {shortened(spread.left_out)}")
