"""Results as JSON: unrounded, every task, NaN as null."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from matl_scale.report.comparison.results import METHOD, VERDICTS, Comparison, SeedSpread


def plain(value: Any) -> Any:
    """Returns a value as JSON knows it: dataclasses as mappings, arrays as lists, what is not finite as None."""
    if is_dataclass(value):
        return {entry.name: plain(getattr(value, entry.name)) for entry in fields(value)}
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, Mapping):
        return {str(key): plain(content) for key, content in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(content) for content in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def plain_comparison(comparison: Comparison) -> dict[str, Any]:
    """Returns a comparison with the number of tasks in each list."""
    counts = {verdict: len(comparison.with_verdict(verdict)) for verdict in VERDICTS}
    return plain(comparison) | {"counts": counts, "method": METHOD}


def plain_spread(spread: SeedSpread) -> dict[str, Any]:
    """Returns the spread over seeds, a mapping per task beside the values of each run."""
    columns = {"mean": spread.mean, "sd": spread.sd, "min": spread.low, "max": spread.high, "values": spread.values.T}
    tasks = [
        {"task": task} | {name: plain(column[i]) for name, column in columns.items()}
        for i, task in enumerate(spread.tasks)
    ]
    return {
        "runs": spread.runs,
        "split": spread.split,
        "metric": spread.metric,
        "tasks": tasks,
        "left_out": spread.left_out,
    }
