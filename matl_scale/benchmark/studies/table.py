"""The tables of a study: means with 95 % intervals over seeds as Markdown, and every single value as CSV."""

import csv
import io
import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy import stats

from matl_scale.benchmark.studies.study import Single

CONFIDENCE = 0.95


def mean_and_interval(values: Sequence[float]) -> tuple[float, float]:
    """Returns the mean over seeds and half the width of its 95 % interval, by Student's t; NaN for less than two seeds.

    Values that are not defined are left out.
    """
    known = np.array([value for value in values if not math.isnan(value)])
    if len(known) < 2:
        return (float(known.mean()) if len(known) else math.nan), math.nan
    half = stats.t.ppf(0.5 + CONFIDENCE / 2, len(known) - 1) * known.std(ddof=1) / math.sqrt(len(known))
    return float(known.mean()), float(half)


def format_cell(values: Sequence[float]) -> str:
    """Returns a mean and its interval; a dash where nothing is defined."""
    mean, half = mean_and_interval(values)
    if math.isnan(mean):
        return "–"
    digits = 1 if abs(mean) >= 10 else 3 if abs(mean) >= 0.02 else 4  # calibration errors are small
    return f"{mean:.{digits}f}" + ("" if math.isnan(half) else f" ± {half:.{digits}f}")


def format_share(values: Sequence[float]) -> str:
    """Returns how many of the values, 0 or 1, are 1, with the exact 95 % interval of their share (Clopper and Pearson, 1934)."""
    count = int(sum(values))
    interval = stats.binomtest(count, len(values)).proportion_ci(CONFIDENCE, method="exact")
    return f"{count} of {len(values)} ({interval.low:.1%} to {interval.high:.1%})"


def as_markdown(singles: Sequence[Single], are_shares: bool) -> str:
    """Returns one table per name, its rows and columns in the order in which they first came.

    Args:
        singles: What was measured.
        are_shares: Whether every value is 0 or 1, so that cells are counts.
    """
    form = format_share if are_shares else format_cell
    tables = list(dict.fromkeys(single.table for single in singles))
    return "\n".join(one_table(name, [single for single in singles if single.table == name], form) for name in tables)


def one_table(name: str, singles: Sequence[Single], form: Callable[[Sequence[float]], str]) -> str:
    rows = list(dict.fromkeys(single.row for single in singles))
    columns = list(dict.fromkeys(column for single in singles for column in single.values))
    lines = [f"| {name} | seeds | {' | '.join(columns)} |", "| --- | --- |" + " --- |" * len(columns)]
    for row in rows:
        chosen = [single for single in singles if single.row == row]
        cells = [form([s.values[column] for s in chosen if column in s.values]) for column in columns]
        num_seeds = len({single.seed for single in chosen})
        lines.append(f"| {row} | {num_seeds} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def as_csv(singles: Sequence[Single]) -> str:
    """Returns every single value: a line per table, row, seed and column."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["table", "row", "seed", "measure", "value"])
    for single in singles:
        for measure, value in single.values.items():
            writer.writerow([single.table, single.row, single.seed, measure, "" if math.isnan(value) else repr(value)])
    return text.getvalue()
