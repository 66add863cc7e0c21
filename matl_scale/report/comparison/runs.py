"""From run folders to comparisons: which runs are of one config, what is compared with what, and what to beware of."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from matl_scale.errors import InputError
from matl_scale.report.comparison.alignment import AlignedRuns, align, read_answers
from matl_scale.report.comparison.results import Comparison, SeedSpread
from matl_scale.report.comparison.seeds import SEED_KEY, group_by_config, list_changes, measure_spread, read_config
from matl_scale.report.comparison.two_sides import compare
from matl_scale.report.significance.paired_counts import Metric
from matl_scale.runs.history import RunHistory
from matl_scale.runs.layout import RunFolder

SAME_CONFIG = (
    "A and B are of one config: what is listed as improved or regressed is what a second training changes by itself."
)
ONE_RUN_EACH = (
    "Each side is one training: another seed may change a task as much. Several seeds of each config show how much."
)


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked of several runs: the options of the command that go with comparisons."""

    split: str
    metric: Metric
    alpha: float
    patterns: Sequence[str] = ()
    common_tasks: bool = False


def open_runs(folders: Sequence[Path]) -> list[RunHistory]:
    """Opens the runs.

    Raises:
        InputError: One cannot be read, or is given twice.
    """
    runs: dict[Path, RunHistory] = {}
    for folder in folders:
        if folder.resolve() in runs:
            raise InputError(f"The run {folder} is given twice. Give each run once.")
        try:
            runs[folder.resolve()] = RunHistory(folder)
        except (pa.ArrowException, OSError) as error:
            raise InputError(
                f"{RunFolder(folder).per_task_file} cannot be read ({error}). Evaluate the run again: "
                f"matl-evaluate --run {folder}."
            ) from error
    return list(runs.values())


def choose_split(runs: Sequence[RunHistory], wanted: str | None) -> str:
    """Returns the split asked for, or the one that the first run would choose among those that all runs have.

    Raises:
        InputError: A run was not evaluated on it.
    """
    shared = [split for split in runs[0].steps if all(split in run.steps for run in runs)]
    split = runs[0].choose_split(wanted)
    if wanted is None and split not in shared and shared:
        split = max(shared, key=lambda name: len(runs[0].steps[name]))
    for run in runs:
        run.choose_split(split)
    return split


def compare_runs(runs: Sequence[RunHistory], question: Question) -> tuple[list[Comparison], SeedSpread | None]:
    """Compares two runs, or each group of runs of one config with the first; one group's spread is returned beside it.

    Raises:
        InputError: The runs cannot be compared.
    """
    configs = [read_config(run) for run in runs]
    answers = [read_answers(run, question.split, name) for run, name in zip(runs, distinct_names(runs), strict=True)]
    aligned = align(answers, question.split, question.patterns, question.common_tasks)
    groups = group_by_config(configs)
    spread = measure_spread(aligned, question.split, question.metric) if len(groups) == 1 else None
    pairs = [([0], [1])] if len(runs) == 2 else [(groups[0], group) for group in groups[1:]]
    return [compare_sides(aligned, configs, *pair, question) for pair in pairs], spread


def compare_sides(
    aligned: AlignedRuns, configs: Sequence[dict[str, Any]], side_a: list[int], side_b: list[int], question: Question
) -> Comparison:
    """Compares two sides, and says in what their configs differ."""
    found = compare(aligned, side_a, side_b, question.split, question.metric, question.alpha)
    single = len(side_a) == len(side_b) == 1
    changes = list_changes(configs[side_a[0]], configs[side_b[0]], () if single else (SEED_KEY,))
    same = len(group_by_config([configs[side_a[0]], configs[side_b[0]]])) == 1
    notes = [SAME_CONFIG] if same else [ONE_RUN_EACH] if single else []
    return replace(found, config_changes=changes, notes=notes)


def distinct_names(runs: Sequence[RunHistory]) -> list[str]:
    """Returns the names of the runs, with their folders where two have the same name."""
    names = [run.name for run in runs]
    return [f"{run.folder}" if names.count(run.name) > 1 else run.name for run in runs]
