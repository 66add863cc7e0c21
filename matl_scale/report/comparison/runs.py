"""From runs to comparisons: which runs are of one config, what is compared with what, and how to read the result."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from matl_scale.report.comparison.alignment import AlignedRuns, align, read_outcomes
from matl_scale.report.comparison.configs import SEED_KEY, group_by_config, list_changes, read_settings
from matl_scale.report.comparison.results import Comparison, Question, SeedSpread
from matl_scale.report.comparison.two_sides import compare_sides, values_of_runs
from matl_scale.runs.history import RunHistory

SAME_CONFIG = (
    "A and B are of one config: what is listed as improved or regressed is what a second training changes by itself."
)
ONE_RUN_EACH = (
    "Each side is one training: another seed may change a task as much. Several seeds of each config show how much."
)


def compare_runs(runs: Sequence[RunHistory], question: Question) -> tuple[list[Comparison], SeedSpread | None]:
    """Compares two runs, or each group of runs of one config with the first; and measures the spread if there is one group.

    Raises:
        InputError: The runs cannot be compared.
    """
    settings = [read_settings(run) for run in runs]
    outcomes = [read_outcomes(run, question.split, name) for run, name in zip(runs, distinct_names(runs), strict=True)]
    aligned = align(outcomes, question)
    groups = group_by_config(settings)
    spread = measure_spread(aligned, question) if len(groups) == 1 else None
    pairs = [([0], [1])] if len(runs) == 2 else [(groups[0], group) for group in groups[1:]]
    return [compare_groups(aligned, settings, *pair, question) for pair in pairs], spread


def compare_groups(
    aligned: AlignedRuns,
    settings: Sequence[Mapping[str, Any]],
    side_a: list[int],
    side_b: list[int],
    question: Question,
) -> Comparison:
    """Compares two groups of runs, and lists the differences of their configs."""
    comparison = compare_sides(aligned, side_a, side_b, question)
    settings_a, settings_b = settings[side_a[0]], settings[side_b[0]]
    one_run_each = len(side_a) == len(side_b) == 1
    changes = list_changes(settings_a, settings_b, () if one_run_each else (SEED_KEY,))
    same_config = len(group_by_config([settings_a, settings_b])) == 1
    notes = [SAME_CONFIG] if same_config else [ONE_RUN_EACH] if one_run_each else []
    return replace(comparison, config_changes=changes, notes=notes)


def measure_spread(aligned: AlignedRuns, question: Question) -> SeedSpread:
    """Measures how much the runs differ, task by task."""
    smallest = [np.bincount(aligned.labels(task.name), minlength=task.num_classes).min() for task in aligned.tasks]
    return SeedSpread(
        runs=[outcomes.label for outcomes in aligned.outcomes],
        split=question.split,
        metric=question.metric,
        tasks=[task.name for task in aligned.tasks],
        values=values_of_runs(aligned, range(len(aligned.outcomes)), question.metric),
        in_means=np.array(smallest) >= question.min_count,
        left_out=aligned.left_out,
    )


def distinct_names(runs: Sequence[RunHistory]) -> list[str]:
    """Returns the names of the runs, with their folders where two have the same name."""
    names = [run.name for run in runs]
    return [f"{run.folder}" if names.count(run.name) > 1 else run.name for run in runs]
