"""One run in a terminal: a few lines and short tables; the rest is in the page and in the JSON file."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from matl_scale.errors import shortened
from matl_scale.metrics.names import MAIN_METRIC, MAIN_METRIC_LABELS, METRIC_LABELS, SUMMARIES
from matl_scale.report.comparison.results import VERDICTS, Comparison, SeedSpread, TaskDifference, Verdict
from matl_scale.report.facts import RunFacts, collect_facts
from matl_scale.report.single_run import find_undefined, metrics_of, moved_most
from matl_scale.runs.history import RunHistory

FILE_WIDTH = 160  # columns where no terminal says how many there are
TASK_COLUMNS = (MAIN_METRIC, "accuracy", "majority_accuracy", "auroc", "average_precision")


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
    table = build_table("over tasks", *MAIN_METRIC_LABELS.values())
    for key, label in SUMMARIES.items():
        table.add_row(label, *(cell(summary[f"{key}_{metric}"]) for metric in MAIN_METRIC_LABELS))
    print_table(console, title, table)
    below = [latest.tasks[rows[i]] for i in np.flatnonzero(metrics.below_baseline).tolist()]
    names = f": {shortened(below)}" if below else ""
    say(console, f"tasks below the majority baseline: {len(below)} of {len(rows)}{names}")


def print_worst(console: Console, facts: RunFacts, rows: Sequence[int], limit: int) -> None:
    metrics = metrics_of(facts, rows)
    worst = metrics.worst(limit)
    title = f"worst {len(worst)} by balanced accuracy"
    table = build_table("task", "samples", *(METRIC_LABELS[name] for name in TASK_COLUMNS))
    for i in worst:
        values = (cell(metrics.values[name][i]) for name in TASK_COLUMNS)
        table.add_row(escape(facts.latest.tasks[rows[i]]), f"{metrics.counts[i]:,}", *values)
    print_table(console, title, table)


def print_changes(console: Console, facts: RunFacts, rows: Sequence[int], limit: int) -> None:
    since = facts.change.since
    if since is None:
        say(console, f"{facts.latest.split} was evaluated once: there is no change to show")
        return
    now = facts.latest.metrics.values[MAIN_METRIC]
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
        metrics = ", ".join(METRIC_LABELS[name] for name in each.metrics)
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


SIGNS = {"improved": "↑", "regressed": "↓", "unchanged": "=", "undefined": "?"}
INTERVAL = "95 % interval"
STYLES = {"improved": "green", "regressed": "red", "unchanged": "", "undefined": "dim"}
SIGNIFICANT: tuple[Verdict, ...] = ("regressed", "improved")


def print_comparison(console: Console, comparison: Comparison, limit: int) -> None:
    """Prints what differs between A and B."""
    metric = METRIC_LABELS[comparison.metric]
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
    metric = METRIC_LABELS[spread.metric]
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
