"""The top of a run's sections: what was evaluated, the numbers over all tasks, and the few tasks to look at first."""

from collections.abc import Mapping
from datetime import datetime, timezone

import numpy as np

from matl_scale.display import show_name
from matl_scale.errors import shortened
from matl_scale.metrics.names import MAIN_METRIC, METRIC_LABELS, NOT_LEARNED, SUMMARIES, SUMMARY_COLUMNS
from matl_scale.metrics.task_metrics import defined, describe_means, is_tested, mean
from matl_scale.report.decisions import describe_decisions
from matl_scale.report.facts import RunFacts
from matl_scale.report.losses import describe_losses
from matl_scale.report.page.table import MAX_LISTED, ShortList, Tile, format_number
from matl_scale.report.shard_set import data_path, find_fold
from matl_scale.runs.history import TaskTable
from matl_scale.runs.routes import describe_routes
from matl_scale.text import count_of

OVERVIEW_METRICS = (*SUMMARY_COLUMNS, "decided_f1", "brier")
MAX_NAMED = 3  # tasks in a tile


def list_origin(facts: RunFacts) -> list[tuple[str, str]]:
    """Returns what was evaluated, on which data and when, as pairs of a term and a text."""
    latest, data = facts.latest, facts.run.about.get("data", {})
    version = str(data.get("version", "")) + (f" ({str(data['manifest_id'])[:12]})" if data.get("manifest_id") else "")
    images = data.get("splits", {}).get(latest.split)
    labels = f"{count_of(int(latest.metrics.counts.sum()), 'label')}"
    last = max((record["time"] for record in facts.run.records), default=None)
    pairs = [
        ("split", latest.split),
        ("step", f"{latest.step:,}"),
        ("tasks", f"{len(latest.tasks):,}"),
        ("routes", describe_routes(facts.run.routes) if facts.run.shares_routes else ""),
        ("losses", describe_losses(facts.run)),
        ("decisions", "" if facts.run.decisions is None else describe_decisions(facts.run.decisions)),
        ("summaries", describe_means(latest.metrics)),
        ("samples", labels if images is None else f"{count_of(images, 'image')} with {labels}"),
        ("data", data_path(facts.run)),
        ("fold", find_fold(facts.run)),
        ("label version", version),
        ("last record", "" if last is None else f"{datetime.fromtimestamp(last, timezone.utc):%Y-%m-%d %H:%M} UTC"),
    ]
    return [(term, text) for term, text in pairs if text]


def build_tiles(facts: RunFacts) -> list[Tile]:
    """Returns the numbers to read first."""
    latest, change, metrics = facts.latest, facts.change, facts.latest.metrics
    values, worst, summary = metrics.values[MAIN_METRIC], metrics.worst(1), metrics.summary()
    now, before = summary[f"macro_{MAIN_METRIC}"], np.nan
    if change.since is not None:
        before = mean(facts.histories[MAIN_METRIC].values[metrics.in_means, -2])
    unlabelled, single_class = int(metrics.unlabelled.sum()), int(metrics.single_class.sum())
    tiles = [
        Tile(
            label=f"mean {METRIC_LABELS[MAIN_METRIC]}",
            value=format_number(now),
            detail="" if np.isnan(now - before) else f"{now - before:+.3f} since step {change.since:,}",
        ),
        *(
            Tile(
                label=f"mean {METRIC_LABELS[name]}",
                value=format_number(summary[f"macro_{name}"]),
                detail="with the decisions that were fitted" + describe_calibration(summary),
            )
            for name in metrics.measured(["decided_balanced_accuracy"])
        ),
        Tile(
            label="worst task",
            value=format_number(values[worst[0]]) if worst else "",
            detail=latest.tasks[worst[0]] if worst else "no task has two classes in the split",
        ),
        count_not_learned(latest),
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


def count_not_learned(latest: TaskTable) -> Tile:
    """Returns how many tasks are not better than the baseline, and the names of the first."""
    metrics, label = latest.metrics, f"tasks {NOT_LEARNED}"
    if not is_tested(metrics):
        return Tile(label=label, value="", detail="not known, as an earlier version evaluated")
    names = [show_name(latest.tasks[i]) for i in np.flatnonzero(metrics.not_learned)]
    detail = f"of {metrics.tested.sum():,} with two classes in the split"
    return Tile(
        label=label,
        value=f"{len(names):,}",
        detail=f"{detail}: {shortened(names, MAX_NAMED)}" if names else detail,
        mark="bad" if names else "",
    )


def describe_calibration(summary: Mapping[str, float]) -> str:
    """Says how well calibrated the probabilities are, if that was measured."""
    error = summary.get("macro_ece", np.nan)
    return f"; mean {METRIC_LABELS['ece']} {format_number(error)}" if np.isfinite(error) else ""


def build_overview(facts: RunFacts) -> list[tuple[str, list[str]]]:
    """Returns the summaries over tasks: of each metric its label, and its summaries in the order of `SUMMARIES`."""
    metrics, summary = facts.latest.metrics, facts.latest.metrics.summary()
    return [
        (METRIC_LABELS[metric], [format_number(summary.get(f"{kind}_{metric}")) for kind in SUMMARIES])
        for metric in metrics.measured(OVERVIEW_METRICS)
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
