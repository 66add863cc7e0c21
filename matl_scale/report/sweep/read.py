"""Reads a sweep's folder: the figures of every variant and seed that is finished, and what is not.

A cell is a variant with a seed. Where an arm trains a network for each task, a cell is all of these networks together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from matl_scale.errors import InputError, first_line
from matl_scale.metrics.task_metrics import TaskMetrics
from matl_scale.runs.history import RunHistory
from matl_scale.runs.sweep_folder import Outcome, PlannedRun, SearchOutcome, SweepFolder, SweepPlan


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What the training and the use of one cell cost."""

    parameters: int
    compute_per_label: float  # multiply-adds of training, forward and backward, per label; NaN if no label was trained
    compute_per_image: float  # likewise per image; NaN if no image was trained
    images_per_s: float  # images answered for all tasks per second; NaN if it was not measured
    passes: float  # passes over the labels; NaN if it is not known


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One variant with one seed, finished."""

    variant: str
    seed: int
    tasks: list[str]  # task names
    metrics: TaskMetrics  # of these tasks
    cost: Cost


@dataclass(frozen=True, kw_only=True)
class Unfinished:
    """A planned run without figures."""

    run: str  # its name
    variant: str
    seed: int
    reason: str  # why it failed; `not finished` if it has not ended


@dataclass(frozen=True, kw_only=True)
class SweepRuns:
    """The runs of a sweep, read once."""

    name: str  # of the sweep's folder
    plan: SweepPlan
    split: str  # the evaluated split
    cells: list[Cell]  # in the plan's order
    unfinished: list[Unfinished]
    min_count: int  # the largest `eval.min_count` of the runs
    searches: Mapping[str, SearchOutcome]  # by the variant's name, those that have ended


def read_sweep(folder: SweepFolder, split: str | None = None) -> SweepRuns:
    """Reads all finished runs.

    Args:
        folder: The sweep's folder.
        split: The split to compare; None is the plan's.

    Raises:
        InputError: It is no sweep, or none of its runs is finished.
    """
    plan = folder.read_plan()
    chosen = split or plan.split
    cells: list[Cell] = []
    unfinished: list[Unfinished] = []
    min_count = 0
    for variant in plan.variants:
        for seed in plan.seeds:
            planned = [run for run in plan.runs_of(variant.name) if run.seed == seed]
            read = [read_run(folder, run, chosen) for run in planned]
            unfinished += [entry for entry in read if isinstance(entry, Unfinished)]
            finished = [entry for entry in read if not isinstance(entry, Unfinished)]
            min_count = max([min_count, *(history.min_count for history, _ in finished)])
            if planned and len(finished) == len(planned):
                cells.append(build_cell(variant.name, seed, chosen, finished))
    if not cells:
        raise InputError(describe_nothing(folder, unfinished))
    return SweepRuns(
        name=folder.path.resolve().name,
        plan=plan,
        split=chosen,
        cells=cells,
        unfinished=unfinished,
        min_count=min_count,
        searches={
            search.variant: found for search in plan.searches if (found := folder.read_search(search)) is not None
        },
    )


def describe_nothing(folder: SweepFolder, unfinished: Sequence[Unfinished]) -> str:
    """Says that no variant has a seed with all its runs."""
    reasons = f" {unfinished[0].run}: {unfinished[0].reason}." if unfinished else ""
    return (
        f"{folder.path} has no variant with a finished seed, so there is nothing to compare.{reasons} Start the sweep again; "
        "finished runs are kept."
    )


def read_run(folder: SweepFolder, run: PlannedRun, split: str) -> tuple[RunHistory, Outcome] | Unfinished:
    """Returns a run with its outcome, or why it has no figures."""
    outcome = folder.read_outcome(run)
    if outcome is None:
        return Unfinished(run=run.name, variant=run.variant, seed=run.seed, reason="not finished")
    reason = outcome.reason or "failed"
    if outcome.status == "finished":
        try:
            history = RunHistory(folder.run_folder(run))
            history.choose_split(split)
            return history, outcome
        except (InputError, pa.ArrowException, OSError) as error:
            reason = first_line(error)
    return Unfinished(run=run.name, variant=run.variant, seed=run.seed, reason=reason.rstrip("."))


def build_cell(variant: str, seed: int, split: str, runs: Sequence[tuple[RunHistory, Outcome]]) -> Cell:
    """Puts the networks of a cell together: usually one; of an arm that trains each task alone, one for each."""
    tables = [history.latest(split) for history, _ in runs]
    names = [name for name in tables[0].metrics.values if all(name in table.metrics.values for table in tables)]
    values = {name: np.concatenate([table.metrics.values[name] for table in tables]) for name in names}
    counts = np.concatenate([table.metrics.counts for table in tables])
    return Cell(
        variant=variant,
        seed=seed,
        tasks=[task for table in tables for task in table.tasks],
        metrics=replace(tables[0].metrics, values=values, counts=counts),
        cost=add_costs([outcome for _, outcome in runs]),
    )


def add_costs(outcomes: Sequence[Outcome]) -> Cost:
    """Adds what the networks of a cell cost: an image passes through all of them to be answered for all tasks."""
    labels = sum(outcome.labels for outcome in outcomes)
    images = sum(outcome.images for outcome in outcomes)
    multiply_adds = sum(outcome.multiply_adds for outcome in outcomes)
    one_pass = sum(outcome.labels / outcome.passes for outcome in outcomes if outcome.passes)
    timed = all(outcome.images_per_s > 0 for outcome in outcomes)
    return Cost(
        parameters=sum(outcome.parameters for outcome in outcomes),
        compute_per_label=multiply_adds / labels if labels else float("nan"),
        compute_per_image=multiply_adds / images if images else float("nan"),
        images_per_s=1 / sum(1 / outcome.images_per_s for outcome in outcomes) if timed else float("nan"),
        passes=labels / one_pass if one_pass else float("nan"),
    )
