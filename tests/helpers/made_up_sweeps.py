"""Folders of sweeps as training leaves them, with made-up figures: no training, a few files for each run."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from matl_scale.metrics.names import METRICS
from matl_scale.metrics.task_metrics import TaskMetrics
from matl_scale.report.sweep.compute import compute_sweep
from matl_scale.report.sweep.read import read_sweep
from matl_scale.report.sweep.results import SweepQuestion, SweepResults
from matl_scale.runs.records import LocalLog
from matl_scale.runs.sweep_folder import Outcome, PlannedRun, Search, SearchOutcome, SweepFolder, SweepPlan, Variant

Figures = Mapping[str, np.ndarray]  # by the variant's name, the metric of each seed and task, `(num_seeds, num_tasks)`


PRECISION = 0.9  # average precision ÷ every other metric of made-up runs


def name_tasks(num_tasks: int) -> list[str]:
    return [f"task {i}" for i in range(num_tasks)]


def write_sweep(
    folder: Path,
    figures: Figures,
    *,
    points: Mapping[str, Mapping[str, Any]] | None = None,
    tasks: Mapping[str, Sequence[str]] | None = None,
    outcome: Callable[[PlannedRun], Outcome | None] | None = None,
    smallest_class: int = 30,
    leave_out: Sequence[str] = (),
    searches: Mapping[str, SearchOutcome] | None = None,
    budget: str = "labels",
) -> SweepFolder:
    """Writes a sweep. An arm `single` has a run for each task.

    Args:
        folder: Its folder, which is created.
        figures: What each run reaches.
        points: By the variant's name, what is varied in it; its arm is the first word of the name.
        tasks: By the variant's name, the tasks that it has; made-up names for the others.
        outcome: How a run ends; None is a run that has not ended. Without it, all are finished.
        smallest_class: The samples of each task's smallest class.
        leave_out: Metrics that the runs have not measured.
        searches: By the variant's name, how the search for its settings has ended.
        budget: What all runs have equally much of.
    """
    sweep = SweepFolder(folder)
    folder.mkdir(parents=True)
    variants = [Variant(name=name, arm=name.split()[0], point=(points or {}).get(name, {})) for name in figures]
    runs: list[PlannedRun] = []
    for variant in variants:
        values = figures[variant.name]
        names = list((tasks or {}).get(variant.name, name_tasks(values.shape[1])))
        groups = [[i] for i in range(len(names))] if variant.arm == "single" else [list(range(len(names)))]
        for seed in range(len(values)):
            for group in groups:
                only = names[group[0]] if variant.arm == "single" else ""
                name = f"{variant.name.replace(' ', '-')}-s{seed}" + (f"-t{group[0]}" if only else "")
                run = PlannedRun(name=name, variant=variant.name, seed=seed, settings={}, task=only)
                runs.append(run)
                ended = outcome(run) if outcome else finished()
                if ended is not None:
                    figures_of_run = values[seed, group]
                    write_run(
                        sweep.run_folder(run), [names[i] for i in group], figures_of_run, smallest_class, leave_out
                    )
                    sweep.write_outcome(run, ended)
    planned = [Search(name=f"{variant}-search", variant=variant) for variant in searches or {}]
    for search in planned:
        sweep.search_folder(search).mkdir(parents=True)
        sweep.write_outcome(search, (searches or {})[search.variant])
    sweep.write_plan(
        SweepPlan(
            variants=variants,
            runs=runs,
            reference="dense" if "dense" in figures else variants[0].name,
            budget=budget,
            amount=36000,
            split="val",
            base={},
            tune=12 if searches else 0,
            searches=planned,
        )
    )
    return sweep


def finished(**more: Any) -> Outcome:
    """Returns the outcome of a run that has gone well."""
    values: dict[str, Any] = {
        "status": "finished",
        "steps": 100,
        "seconds": 10.0,
        "images": 3600,
        "labels": 36000,
        "multiply_adds": 7.2e10,
        "passes": 4.0,
        "parameters": 1000,
        "images_per_s": 500.0,
    }
    return Outcome(**{**values, **more})


def write_run(
    folder: Path, tasks: Sequence[str], figures: np.ndarray, smallest_class: int, leave_out: Sequence[str] = ()
) -> None:
    """Writes what the report reads of a run: its last evaluation."""
    folder.mkdir(parents=True)
    values = {name: figures.copy() for name in METRICS if name not in leave_out}
    if "average_precision" in values:
        values["average_precision"] *= PRECISION
    values["smallest_class"] = np.full(len(tasks), float(smallest_class))
    LocalLog(folder).log_per_task(100, "val", tasks, TaskMetrics(values=values, counts=np.full(len(tasks), 100)))


def draw_figures(
    gains: Mapping[str, float | np.ndarray],
    *,
    num_seeds: int = 3,
    num_tasks: int = 8,
    noise: float = 0.01,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Draws figures of variants that are better by their gains, a number or one for each task: with luck of the seed, which all
    variants share, and of every run."""
    generator = np.random.default_rng(seed)
    base = 0.6 + 0.2 * generator.random(num_tasks)
    luck = generator.normal(0, 2 * noise, (num_seeds, 1))
    return {
        name: base + gain + luck + generator.normal(0, noise, (num_seeds, num_tasks)) for name, gain in gains.items()
    }


def results_of(sweep: SweepFolder, **question: Any) -> SweepResults:
    """Returns what a report makes of a sweep, asked with some fields of `SweepQuestion`."""
    return compute_sweep(read_sweep(sweep), SweepQuestion(**question))
