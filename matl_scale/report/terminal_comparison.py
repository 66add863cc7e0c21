"""Comparisons and spreads in a terminal: the counts, the significant differences, and what to beware of."""

import numpy as np
from rich.console import Console
from rich.markup import escape

from matl_scale.errors import shortened
from matl_scale.report.comparison import VERDICTS, Comparison, SeedSpread, TaskDifference, Verdict
from matl_scale.report.facts import METRIC_NAMES
from matl_scale.report.terminal import build_table, cell, print_table, say, say_rest

SIGNS = {"improved": "↑", "regressed": "↓", "unchanged": "=", "undefined": "?"}
INTERVAL = "95 % interval"
STYLES = {"improved": "green", "regressed": "red", "unchanged": "", "undefined": "dim"}
SIGNIFICANT: tuple[Verdict, ...] = ("regressed", "improved")


def print_comparison(console: Console, comparison: Comparison, limit: int) -> None:
    """Prints what differs between A and B."""
    metric = METRIC_NAMES[comparison.metric]
    alone = f"{comparison.name_a}: " if comparison.kind == "single-task" else ""
    say(console, f"A: {alone}{shortened(comparison.runs_a, 5)}")
    say(console, f"B: {shortened(comparison.runs_b, 5)}")
    say(
        console,
        f"{comparison.split}, {metric}, B − A, {len(comparison.tasks)} tasks, false discovery rate {comparison.alpha:g}",
    )
    for verdict in VERDICTS:
        tasks = comparison.with_verdict(verdict)
        names = f": {shortened([task.task for task in tasks], limit)}" if tasks else ""
        say(console, f"{SIGNS[verdict]} {comparison.heading(verdict)} {len(tasks)}{names}")
    print_differences(console, comparison, limit)
    print_reasons(console, comparison, limit)
    for title, lines in (("the configs differ in", comparison.config_changes), ("not compared", comparison.left_out)):
        if lines:
            say(console, f"{title}: {len(lines)}")
            for line in lines[:limit]:
                say(console, f"  {line}")
            say_rest(console, len(lines) - limit)
    for note in comparison.notes:
        say(console, note)


def choose_rows(comparison: Comparison, limit: int) -> list[TaskDifference]:
    """Returns the tasks to show: of each kind of significant ones the largest `limit`, then others until there are `limit`."""
    chosen = [task for verdict in SIGNIFICANT for task in comparison.with_verdict(verdict)[:limit]]
    return chosen + comparison.with_verdict("unchanged")[: max(0, limit - len(chosen))]


def print_differences(console: Console, comparison: Comparison, limit: int) -> None:
    spreads = {"sd A": comparison.spread_a, "sd B": comparison.spread_b}
    columns = [name for name, spread in spreads.items() if spread is not None]
    table = build_table("task", "A", "B", "B − A", INTERVAL, "adjusted p", "n", *columns, "")
    next(column for column in table.columns if column.header == INTERVAL).no_wrap = True
    places = {task.task: i for i, task in enumerate(comparison.tasks)}
    rows = choose_rows(comparison, limit)
    for task in rows:
        sds = [cell(spread[places[task.task]], ".3f") for spread in spreads.values() if spread is not None]
        sign = SIGNS[task.verdict] + (" !" if task.reason else "  ")
        table.add_row(escape(task.task), *difference_cells(task), *sds, sign, style=STYLES[task.verdict])
    if rows:
        console.print(table)


def difference_cells(task: TaskDifference) -> list[str]:
    interval = f"{task.low:+.3f} to {task.high:+.3f}"
    values = (format(task.value_a, ".3f"), format(task.value_b, ".3f"), format(task.difference, "+.3f"))
    return [*values, interval, show_p(task.p_adjusted), f"{task.count:,}"]


def show_p(p: float) -> str:
    return "<0.0001" if p < 1e-4 else f"{p:.4f}"


def print_reasons(console: Console, comparison: Comparison, limit: int) -> None:
    undefined = comparison.with_verdict("undefined")
    for task in undefined[:limit]:
        say(console, f"  {task.task} is undefined: {task.reason}")
    say_rest(console, len(undefined) - limit)
    careful = [task for task in choose_rows(comparison, limit) if task.reason]
    for task in careful:
        say(console, f"  ! {task.task}: {task.reason}")


def print_spread(console: Console, spread: SeedSpread, limit: int) -> None:
    """Prints how far runs of one config lie apart."""
    means = [float(np.nanmean(row)) if np.isfinite(row).any() else float("nan") for row in spread.values]
    metric = METRIC_NAMES[spread.metric]
    say(console, f"{len(spread.runs)} runs of one config on {spread.split}, {metric}: {', '.join(spread.runs)}")
    sd = float(np.std(means, ddof=1))
    say(
        console,
        f"mean over tasks: {np.mean(means):.4f}, sd over runs {sd:.4f}, from {min(means):.4f} to {max(means):.4f}",
    )
    order = np.argsort(-np.nan_to_num(spread.sd, nan=-1.0), kind="stable").tolist()
    shown = [i for i in order if np.isfinite(spread.sd[i])][:limit]
    table = build_table("task", "mean", "sd", "min", "max")
    for i in shown:
        table.add_row(escape(spread.tasks[i]), *(cell(v[i]) for v in (spread.mean, spread.sd, spread.low, spread.high)))
    print_table(console, f"the {len(shown)} tasks that differ most between runs", table)
    if spread.left_out:
        say(console, f"not compared: {shortened(spread.left_out)}")
