"""The top of a run's sections: what was evaluated, the numbers over all tasks, and the few tasks to look at first."""

from datetime import datetime, timezone

import numpy as np

from matl_scale.metrics.names import MAIN_METRIC, MAIN_METRIC_LABELS, METRIC_LABELS, NOT_BETTER
from matl_scale.metrics.task_metrics import defined, mean, summarise
from matl_scale.report.facts import RunFacts
from matl_scale.report.page.table import MAX_LISTED, ShortList, Tile, format_number
from matl_scale.report.shard_set import data_path
from matl_scale.runs.routes import describe_routes


def list_origin(facts: RunFacts) -> list[tuple[str, str]]:
    """Returns what was evaluated, on which data and when, as pairs of a term and a text."""
    latest, data = facts.latest, facts.run.about.get("data", {})
    version = str(data.get("version", "")) + (f" ({str(data['manifest_id'])[:12]})" if data.get("manifest_id") else "")
    images = data.get("splits", {}).get(latest.split)
    labels = f"{int(latest.metrics.counts.sum()):,} labels"
    last = max((record["time"] for record in facts.run.records), default=None)
    pairs = [
        ("split", latest.split),
        ("step", f"{latest.step:,}"),
        ("tasks", f"{len(latest.tasks):,}"),
        ("routes", describe_routes(facts.run.routes) if facts.run.shares_routes else ""),
        ("samples", labels if images is None else f"{images:,} images with {labels}"),
        ("data", data_path(facts.run)),
        ("label version", version),
        ("last record", "" if last is None else f"{datetime.fromtimestamp(last, timezone.utc):%Y-%m-%d %H:%M} UTC"),
    ]
    return [(term, text) for term, text in pairs if text]


def build_tiles(facts: RunFacts) -> list[Tile]:
    """Returns the numbers to read first."""
    latest, change, metrics = facts.latest, facts.change, facts.latest.metrics
    values, worst = metrics.values[MAIN_METRIC], metrics.worst(1)
    now, before = mean(values), mean(facts.histories[MAIN_METRIC].values[:, -2]) if change.since is not None else np.nan
    not_better, evaluated = int(metrics.not_better.sum()), int((~metrics.unlabelled).sum())
    unlabelled, single_class = int(metrics.unlabelled.sum()), int(metrics.single_class.sum())
    tiles = [
        Tile(
            label=f"mean {METRIC_LABELS[MAIN_METRIC]}",
            value=format_number(now),
            detail="" if np.isnan(now - before) else f"{now - before:+.3f} since step {change.since:,}",
        ),
        Tile(
            label="worst task",
            value=format_number(values[worst[0]]) if worst else "",
            detail=latest.tasks[worst[0]] if worst else "no task has two classes in the split",
        ),
        Tile(
            label=f"tasks {NOT_BETTER}",
            value=f"{not_better:,}",
            detail=f"of {evaluated:,}; the constant answer is always the most frequent class",
            mark="bad" if not_better else "",
        ),
        Tile(
            label="tasks without a value",
            value=f"{unlabelled + single_class:,}",
            detail=f"{unlabelled:,} without a label in the split, {single_class:,} with one class only",
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
    """Returns the summaries of the main metrics: of each metric its label, and its summaries in the order of `SUMMARIES`."""
    values = facts.latest.metrics.values
    return [
        (label, [format_number(value) for value in summarise(values[metric]).values()])
        for metric, label in MAIN_METRIC_LABELS.items()
    ]


def build_short_lists(facts: RunFacts) -> list[ShortList]:
    """Returns the worst tasks, and those that changed most."""
    values, names = facts.latest.metrics.values[MAIN_METRIC], facts.latest.tasks
    worst = []
    for i in facts.latest.metrics.worst(MAX_LISTED):
        width = facts.half_widths[i]
        worst.append((names[i], format_number(values[i]), f"± {format_number(width)}" if np.isfinite(width) else ""))
    lists = [ShortList(title="Worst tasks", rows=worst)]
    if facts.change.since is not None:
        lists += [list_changed(facts, 1, "Better"), list_changed(facts, -1, "Worse")]
    return lists


def list_changed(facts: RunFacts, sign: int, word: str) -> ShortList:
    """Returns the tasks that changed most in one direction; only those beyond chance, if that is known."""
    change, values = facts.change, facts.latest.metrics.values[MAIN_METRIC]
    changed = change.largest(sign)
    remark = "No predictions were stored, so it is not known which changes are beyond chance."
    if facts.predictions is not None:
        changed = changed[change.beyond_chance[changed]]
        remark = "" if len(changed) else "None beyond chance."
    rows = [
        (facts.latest.tasks[i], format_number(change.values[i], signed=True), f"→ {format_number(values[i])}")
        for i in changed[:MAX_LISTED]
    ]
    return ShortList(title=f"{word} than at step {change.since:,}", rows=rows, remark=remark)
