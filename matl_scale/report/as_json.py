"""Results as JSON: unrounded, every task, NaN as null."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from matl_scale.report.comparison.results import METHOD, VERDICTS, Comparison, Results, SeedSpread
from matl_scale.report.facts import RunFacts
from matl_scale.report.suspects.suspect_list import SuspectList
from matl_scale.report.undefined import find_undefined


def results_to_json(results: Results) -> dict[str, Any]:
    """Returns what `--json` writes."""
    return {
        "runs": [f"{run.folder}" for run in results.runs],
        "split": results.split,
        "run": None if results.facts is None else run_to_json(results.facts),
        "comparisons": [comparison_to_json(comparison) for comparison in results.comparisons],
        "spread": None if results.spread is None else spread_to_json(results.spread),
        "suspects": None if results.suspects is None else suspects_to_json(results.suspects),
    }


def to_json(value: Any) -> Any:
    """Turns dataclasses into mappings, arrays into lists, and numbers that are not finite into None."""
    if is_dataclass(value):
        return {entry.name: to_json(getattr(value, entry.name)) for entry in fields(value)}
    if isinstance(value, np.ndarray | np.generic):
        return to_json(value.tolist())
    if isinstance(value, Mapping):
        return {str(key): to_json(content) for key, content in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [to_json(content) for content in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def run_to_json(facts: RunFacts) -> dict[str, Any]:
    """Returns the last evaluation of a run, every metric of every task, and the tasks of every route: of those that the facts
    leave out too, so that `routing.routes` takes it."""
    latest, undefined = facts.latest, {each.task: each for each in find_undefined(facts)}
    # None where it is not known: one class alone occurs, or an earlier version evaluated
    pairs = zip(latest.metrics.tested.tolist(), latest.metrics.not_learned.tolist(), strict=True)
    not_learned = [chance if tested else None for tested, chance in pairs]
    tasks = [
        {
            "task": task,
            "positive": facts.run.positives.get(task),
            "route": facts.run.route_of[task],
            "count": latest.metrics.counts[i],
            "draws": None if latest.draws is None else latest.draws[i],
            "labels_seen": None if latest.labels_seen is None else latest.labels_seen[i],
            "metrics": {name: column[i] for name, column in latest.metrics.values.items()},
            "not_learned": not_learned[i],
            "in_means": latest.metrics.in_means[i],
            "balanced_accuracy_change": facts.change.values[i],
            "undefined": undefined.get(task),
        }
        for i, task in enumerate(latest.tasks)
    ]
    summary = latest.metrics.summary()
    content: dict[str, Any] = to_json(
        {
            "step": latest.step,
            "previous_step": facts.change.since,
            "min_count": latest.metrics.min_count,
            "summary": summary,
            "routes": facts.run.routes,
            "decisions": decisions_to_json(facts),
            "tasks": tasks,
        }
    )
    return content


def suspects_to_json(found: SuspectList) -> dict[str, Any]:
    """Returns every label that is likely wrong, task by task, the most likely first, and which tasks could not be searched."""
    return {"tasks": [to_json(task) for task in found.tasks], "left_out": found.left_out}


def decisions_to_json(facts: RunFacts) -> dict[str, Any] | None:
    """Returns the decisions of the run's best network, the rule of every task included; None if there are none."""
    decisions = facts.run.decisions
    if decisions is None:
        return None
    rules = {
        name: {"aim": decisions.aims[name], "threshold": rule.threshold, **to_json(rule)}
        for name, rule in decisions.rules.items()
    }
    return {**to_json(decisions.info), "tasks": rules}


def comparison_to_json(comparison: Comparison) -> dict[str, Any]:
    """Returns a comparison, with the number of tasks of each verdict."""
    counts = {verdict: len(comparison.with_verdict(verdict)) for verdict in VERDICTS}
    content: dict[str, Any] = to_json(comparison)
    return content | {"counts": counts, "method": METHOD}


def spread_to_json(spread: SeedSpread) -> dict[str, Any]:
    """Returns the spread over seeds: per task its mean, sd, min and max, and the value of each run."""
    columns = spread.over_runs | {"values": spread.values.T}
    tasks = [
        {"task": task} | {name: to_json(column[i]) for name, column in columns.items()}
        for i, task in enumerate(spread.tasks)
    ]
    return {
        "runs": spread.runs,
        "split": spread.split,
        "metric": spread.metric,
        "tasks": tasks,
        "left_out": spread.left_out,
    }
