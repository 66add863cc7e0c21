"""What stands on top of a run: what it is, the numbers over all tasks, and the few tasks to look at first."""

from dataclasses import dataclass
from datetime import datetime, timezone

import numpy as np

from matl_scale.metrics.names import MAIN_METRIC, MAIN_METRIC_LABELS, METRIC_LABELS
from matl_scale.metrics.task_metrics import defined, summarise
from matl_scale.report.comparison.results import Comparison, SeedSpread, Verdict
from matl_scale.report.facts import RunFacts, data_path
from matl_scale.report.page.table import Mark, format_number

LISTED = 6
VERDICTS: tuple[tuple[Verdict, Mark], ...] = (
    ("regressed", "worse"),
    ("improved", "better"),
    ("unchanged", ""),
    ("undefined", ""),
)


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One number, large: what it is, its value, and a line below it."""

    label: str
    value: str
    detail: str = ""
    mark: Mark = ""


@dataclass(frozen=True, kw_only=True)
class ShortList:
    """A few tasks.

    Attributes:
        title: Above them.
        rows: Name, number, and what belongs to it.
        remark: Below them.
    """

    title: str
    rows: list[tuple[str, str, str]]
    remark: str = ""


def describe_run(facts: RunFacts) -> list[tuple[str, str]]:
    """Returns what the page is about: pairs of a word and a text."""
    latest, data = facts.latest, facts.run.about.get("data", {})
    version = str(data.get("version", "")) + (f" ({str(data['manifest_id'])[:12]})" if data.get("manifest_id") else "")
    images = data.get("splits", {}).get(latest.split)
    labels = f"{int(latest.metrics.counts.sum()):,} labels"
    last = max((record["time"] for record in facts.run.records), default=None)
    pairs = [
        ("split", latest.split),
        ("step", f"{latest.step:,}"),
        ("tasks", f"{len(latest.tasks):,}"),
        ("samples", labels if images is None else f"{images:,} images with {labels}"),
        ("data", data_path(facts.run)),
        ("label version", version),
        ("last record", "" if last is None else f"{datetime.fromtimestamp(last, timezone.utc):%Y-%m-%d %H:%M} UTC"),
    ]
    return [(word, text) for word, text in pairs if text]


def build_tiles(facts: RunFacts) -> list[Tile]:
    """Returns the numbers that are read first."""
    latest, change = facts.latest, facts.change
    values, counts = latest.metrics.values[MAIN_METRIC], latest.metrics.counts
    before = summarise(facts.courses[MAIN_METRIC].values[:, -2])["macro"] if change.since is not None else None
    now, worst = summarise(values)["macro"], latest.metrics.worst(1, MAIN_METRIC)
    below, evaluated = int(latest.metrics.below_baseline.sum()), int((counts > 0).sum())
    unlabelled, one_class = int((counts == 0).sum()), int(((counts > 0) & ~np.isfinite(values)).sum())
    tiles = [
        Tile(
            label=f"mean {METRIC_LABELS[MAIN_METRIC]}",
            value=format_number(now),
            detail="" if np.isnan(now) or before is None else f"{now - before:+.3f} since step {change.since:,}",
        ),
        Tile(
            label="worst task",
            value=format_number(values[worst[0]]) if worst else "",
            detail=latest.tasks[worst[0]] if worst else "no task has two classes in the split",
        ),
        Tile(
            label="tasks below the majority baseline",
            value=f"{below:,}",
            detail=f"of {evaluated:,}: worse than always giving the most frequent answer",
            mark="bad" if below else "",
        ),
        Tile(
            label="tasks without a value",
            value=f"{unlabelled + one_class:,}",
            detail=f"{unlabelled:,} without a label in the split, {one_class:,} with one class only",
        ),
    ]
    if change.since is not None and facts.predictions is not None:
        better, worse = (int((change.beyond_chance & (sign * change.values > 0)).sum()) for sign in (1, -1))
        detail = f"beyond chance, of {len(defined(change.values)):,} tasks"
        tiles.append(
            Tile(label=f"better, worse than at step {change.since:,}", value=f"{better:,} ▲ {worse:,} ▼", detail=detail)
        )
    return tiles


def build_overview(facts: RunFacts) -> list[tuple[str, list[str]]]:
    """Returns the summaries of the main metrics: a row for each, its name and its cells."""
    values = facts.latest.metrics.values
    return [
        (label, [format_number(value) for value in summarise(values[metric]).values()])
        for metric, label in MAIN_METRIC_LABELS.items()
    ]


def build_short_lists(facts: RunFacts) -> list[ShortList]:
    """Returns the worst tasks, and those that moved most."""
    values, names = facts.latest.metrics.values[MAIN_METRIC], facts.latest.tasks
    worst = [
        (names[i], format_number(values[i]), around(facts.half_widths[i]))
        for i in facts.latest.metrics.worst(LISTED, MAIN_METRIC)
    ]
    lists = [ShortList(title="Worst tasks", rows=worst)]
    if facts.change.since is not None:
        lists += [list_movers(facts, 1, "Better"), list_movers(facts, -1, "Worse")]
    return lists


def list_movers(facts: RunFacts, sign: int, word: str) -> ShortList:
    """Returns the tasks that moved most in one direction; only those beyond chance, if that is known."""
    change, values = facts.change, facts.latest.metrics.values[MAIN_METRIC]
    moved = np.flatnonzero(np.nan_to_num(sign * change.values) > 0)
    remark = "No predictions were kept, so how far chance goes is not known."
    if facts.predictions is not None:
        moved = moved[change.beyond_chance[moved]]
        remark = "" if len(moved) else "None beyond chance."
    order = moved[np.argsort(-sign * change.values[moved], kind="stable")][:LISTED]
    rows = [
        (facts.latest.tasks[i], format_number(change.values[i], signed=True), f"→ {format_number(values[i])}")
        for i in order
    ]
    return ShortList(title=f"{word} than at step {change.since:,}", rows=rows, remark=remark)


def around(half_width: float) -> str:
    return f"± {format_number(half_width)}" if np.isfinite(half_width) else ""


def compare_tiles(comparison: Comparison) -> list[Tile]:
    """Returns how many tasks of a comparison got better, worse, or neither."""
    counts = {verdict: len(comparison.with_verdict(verdict)) for verdict, _ in VERDICTS}
    differences = defined(np.array([task.difference for task in comparison.tasks]))
    mean = Tile(
        label=f"mean difference of {comparison.metric.replace('_', ' ')}",
        value=format_number(summarise(differences)["macro"], signed=True),
        detail=f"on {comparison.split}, over {len(differences):,} tasks",
    )
    tiles = [
        Tile(label=comparison.heading(verdict), value=f"{counts[verdict]:,}", mark=mark if counts[verdict] else "")
        for verdict, mark in VERDICTS
        if counts[verdict] or verdict != "undefined"
    ]
    return [mean, *tiles]


def spread_tiles(spread: SeedSpread) -> list[Tile]:
    """Returns how far apart the runs are, over all tasks and in the task that differs most."""
    sds = defined(spread.sd)
    if not len(sds):
        return []
    means = np.nanmean(spread.values, axis=1)
    most = int(np.nanargmax(spread.sd))
    return [
        Tile(
            label="mean over tasks and runs",
            value=format_number(means.mean()),
            detail=f"the runs' means have an sd of {means.std(ddof=1):.4f}",
        ),
        Tile(label="median sd of a task", value=format_number(float(np.median(sds)))),
        Tile(label="largest sd of a task", value=format_number(spread.sd[most]), detail=spread.tasks[most]),
    ]


def list_differences(comparison: Comparison) -> list[ShortList]:
    """Returns the largest differences in each direction."""
    lists = []
    for verdict, _ in VERDICTS[:2]:
        tasks = comparison.with_verdict(verdict)
        rows = [
            (task.task, format_number(task.difference, signed=True), f"{task.low:+.3f} to {task.high:+.3f}")
            for task in tasks[:LISTED]
        ]
        more = len(tasks) - LISTED
        remark = f"{more:,} more in the table." if more > 0 else "" if rows else "None."
        title = f"{comparison.heading(verdict).capitalize()}: {len(tasks):,} tasks"
        lists.append(ShortList(title=title, rows=rows, remark=remark))
    return lists


def explain_columns(facts: RunFacts) -> str:
    """Says what the columns ± and change of the table are, or why they are empty."""
    if facts.predictions is None:
        width = f"± and the colour of changes are missing. {facts.without}"
    else:
        width = "± is half of the 95 % interval of the balanced accuracy, for other samples of the same kind."
    if facts.change.since is None:
        return f"{width} This is the first evaluation, so nothing has changed yet."
    colour = (
        ""
        if facts.predictions is None
        else "; in colour if chance alone would rarely move it so far (once in 20 tasks)"
    )
    return f"{width} Change is that of the balanced accuracy since step {facts.change.since:,}{colour}."
