"""The figures of a sweep as arrays variants × seeds × tasks, over the tasks that can be compared: those of all variants."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from matl_scale.errors import InputError
from matl_scale.metrics.names import MAIN_METRIC, METRIC_LABELS
from matl_scale.report.sweep.read import Cell, SweepRuns
from matl_scale.report.sweep.results import SWEEP_METRICS, SweepQuestion
from matl_scale.runs.sweep_folder import Variant
from matl_scale.tasks import match_names
from matl_scale.text import count_of

DECIDED = SWEEP_METRICS[0]


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What is compared."""

    metric: str
    variants: list[Variant]  # those with a finished seed, in the plan's order
    seeds: list[int]
    tasks: list[str]
    values: (
        np.ndarray
    )  # of the metric, `(num_variants, num_seeds, num_tasks)`; NaN in all tasks where a cell is not finished
    average_precision: np.ndarray  # same shape; also NaN in tasks where it is undefined
    min_count: int
    notes: list[str]  # what was left out

    @property
    def macro(self) -> np.ndarray:
        """The mean over tasks, shape `(num_variants, num_seeds)`."""
        means: np.ndarray = self.values.mean(axis=2)
        return means


def gather_figures(runs: SweepRuns, question: SweepQuestion) -> Figures:
    """Gathers the metric of every task.

    Raises:
        InputError: The metric was not measured, a pattern matches no task, or the variants have no task in common.
    """
    min_count = runs.min_count if question.min_count is None else question.min_count
    metric, notes = choose_metric(runs.cells, question.metric)
    shared = set.intersection(*(set(cell.tasks) for cell in runs.cells))
    everywhere = [task for task in runs.cells[0].tasks if task in shared]
    if not everywhere:
        raise InputError(f"The variants of the sweep {runs.name} have no task in common, so they cannot be compared.")
    if question.patterns:
        everywhere = [everywhere[i] for i in match_names(everywhere, question.patterns, "--tasks")]
    known = np.stack([known_tasks(cell, everywhere, metric, min_count) for cell in runs.cells]).min(axis=0)
    tasks = [task for task, is_known in zip(everywhere, known.tolist(), strict=True) if is_known]
    if not tasks:
        raise InputError(
            f"No task of the sweep {runs.name} has a {METRIC_LABELS[metric]} in all runs on {runs.split}, with {min_count} "
            "samples of each class. Choose another --metric, or a lower --min-count."
        )
    all_tasks = {task for cell in runs.cells for task in cell.tasks}
    if len(everywhere) < len(all_tasks) and not question.patterns:
        notes.append(
            f"Compared on the {count_of(len(everywhere), 'task')} that all variants have, of {len(all_tasks):,}."
        )
    if len(tasks) < len(everywhere):
        reason = f"has fewer than {min_count} samples of a class, or " if min_count else ""
        notes.append(
            f"Left out: {count_of(len(everywhere) - len(tasks), 'task')} of which the split {reason}lacks a class."
        )
    variants = [each for each in runs.plan.variants if any(cell.variant == each.name for cell in runs.cells)]
    arrays = (fill(runs.cells, variants, runs.plan.seeds, tasks, name) for name in (metric, "average_precision"))
    values, average_precision = arrays
    return Figures(
        metric=metric,
        variants=variants,
        seeds=runs.plan.seeds,
        tasks=tasks,
        values=values,
        average_precision=average_precision,
        min_count=min_count,
        notes=notes,
    )


def choose_metric(cells: Sequence[Cell], wanted: str | None) -> tuple[str, list[str]]:
    """Returns the metric, and what is to be said about the choice."""
    decided = all(np.isfinite(cell.metrics.column(DECIDED)).any() for cell in cells)
    if wanted is None:
        note = "Balanced accuracy is at argmax, as not all runs have decisions."
        return (DECIDED, []) if decided else (MAIN_METRIC, [note])
    for cell in cells:
        if not np.isfinite(cell.metrics.column(wanted)).any():
            raise InputError(
                f"`--metric` {wanted} was not measured in the run of {cell.variant} with seed {cell.seed}. Choose "
                f"{MAIN_METRIC}, which every evaluation measures."
            )
    return wanted, []


def known_tasks(cell: Cell, tasks: Sequence[str], metric: str, min_count: int) -> np.ndarray:
    """Returns which tasks have a value that counts, bool, shape `(num_tasks,)`."""
    index_of = {task: i for i, task in enumerate(cell.tasks)}
    metrics = replace(cell.metrics.select([index_of[task] for task in tasks]), min_count=min_count)
    known: np.ndarray = metrics.in_means & np.isfinite(metrics.column(metric))
    return known


def fill(
    cells: Sequence[Cell], variants: Sequence[Variant], seeds: Sequence[int], tasks: Sequence[str], metric: str
) -> np.ndarray:
    """Returns a metric of every cell, shape `(num_variants, num_seeds, num_tasks)`; NaN where it is not known."""
    values = np.full((len(variants), len(seeds), len(tasks)), np.nan)
    variant_index = {variant.name: i for i, variant in enumerate(variants)}
    for cell in cells:
        index_of = {task: i for i, task in enumerate(cell.tasks)}
        column = cell.metrics.column(metric)[[index_of[task] for task in tasks]]
        values[variant_index[cell.variant], seeds.index(cell.seed)] = column
    return values
