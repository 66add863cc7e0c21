"""Trains the networks of one trial, and says after each part of them how good the best was."""

import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

from matl_scale.errors import RunError
from matl_scale.metrics.task_metrics import TaskMetrics
from matl_scale.runs.layout import RunFolder
from matl_scale.runs.records import read_records
from matl_scale.sweep.run_planned import start_accelerator
from matl_scale.train.config import Config
from matl_scale.train.defaults.rules import DECIDED
from matl_scale.train.loop import Hooks, Run
from matl_scale.train.masks.dense_part import read_dense_draws
from matl_scale.train.run import train
from matl_scale.train.schedule import PARTS

# gets the number of the evaluation, from 1, the best value up to it, and whether it is the last; an exception ends the trial
Report = Callable[[int, float, bool], None]


def train_trial(configs: Sequence[Config], report: Report) -> float | None:
    """Trains networks one after the other, each from its newest checkpoint if there is one.

    Returns:
        The mean of their best values on the split of their evaluations; None if the process was asked to stop.

    Raises:
        InputError, RunError: As in training, or nothing could be measured.
    """
    bests: list[float] = []
    for i, config in enumerate(configs):
        hooks = Hooks(after_evaluation=reporter(config, bests, len(configs), report))
        if train(config, start_accelerator(config), hooks=hooks).stopped:
            return None
        best = read_best(config, count_dense_steps(config))
        if best is None:
            raise RunError(f"`{metric_of(config)}` cannot be measured on the split {config.eval.split}")
        bests.append(best)
        assert len(bests) == i + 1
    return fmean(bests)


def reporter(
    config: Config, before: Sequence[float], num_networks: int, report: Report
) -> Callable[[Run, TaskMetrics], None]:
    """Returns a hook that reports the mean over the networks up to this one, of which those `before` are complete."""

    def say_how_good(run: Run, _: TaskMetrics) -> None:
        if run.state.importance is not None:  # the dense part says nothing of the sub-networks after it
            return
        best = read_best(config, int(run.state.dense_draws.sum()) // run.components.sampler.num_slots)
        part = round(PARTS * run.state.length.progress(run.state.step))
        number = PARTS * len(before) + part
        if best is not None:
            report(number, fmean([*before, best]), number == PARTS * num_networks)

    return say_how_good


def count_dense_steps(config: Config) -> int:
    """Returns how many steps of a finished run were its dense part."""
    if not config.routing.dense_part:
        return 0
    return sum(read_dense_draws(config.run.folder)) // int(read_saved_sections(config)["train"]["accumulate"])


def read_best(config: Config, after: int = 0) -> float | None:
    """Returns the best value that a run has recorded in evaluations after so many steps; None if there is none."""
    if not RunFolder(config.run.folder).config_file.is_file():
        return None
    key = f"{config.eval.split}/{metric_of(config)}"
    values = (record[key] for record in read_records(config.run.folder) if key in record and record["step"] > after)
    return max(values, default=None)


def metric_of(config: Config) -> str:
    """Returns what trials are compared by: what says which network of a run is the best, as the run itself has chosen it."""
    return str(read_saved_sections(config)["checkpoint"]["best"]) or DECIDED


def read_saved_sections(config: Config) -> dict[str, Any]:
    """Returns the config of a run with what it has chosen, in sections."""
    saved: dict[str, Any] = yaml.safe_load(RunFolder(config.run.folder).config_file.read_text(encoding="utf-8"))
    return saved


def delete_checkpoints(runs: Iterable[Path]) -> None:
    """Deletes the networks in the run folders of a trial that has ended; what they have reached stays in their records."""
    for run in map(RunFolder, runs):
        for folder in (run.checkpoints_folder, run.best_folder):
            shutil.rmtree(folder, ignore_errors=True)
