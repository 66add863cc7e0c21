"""Trains and evaluates one run of a sweep, and writes down what it has cost."""

import gc
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from matl_scale.runs.growing_table import GrowingTable
from matl_scale.runs.layout import RunFolder
from matl_scale.runs.records import read_records
from matl_scale.runs.sweep_folder import Outcome, PlannedRun, SweepFolder, SweepPlan
from matl_scale.storage.locks import lock_folder
from matl_scale.sweep.costs import measure_costs, measure_trained
from matl_scale.train.config import Config, read_saved, with_settings
from matl_scale.train.evaluate_run import evaluate_split, read_run_config
from matl_scale.train.loop import Hooks
from matl_scale.train.masks.dense_part import read_dense_draws
from matl_scale.train.process_group import build_accelerator
from matl_scale.train.resolve import resolve_offline
from matl_scale.train.run import train


def settings_of(plan: SweepPlan, run: PlannedRun) -> dict[str, Any]:
    """Returns the settings of a run, with those that tuning found for its variant."""
    (variant,) = (variant for variant in plan.variants if variant.name == run.variant)
    return {**run.settings, **variant.tuned}


def build_run_config(folder: SweepFolder, plan: SweepPlan, run: PlannedRun) -> Config:
    """Returns the config of a run; the folder may have been moved since it was planned."""
    place = {"run.name": run.name, "run.dir": str(folder.runs.absolute())}
    return with_settings(read_saved(plan.base), {**settings_of(plan, run), **place})


def run_planned(folder: SweepFolder, plan: SweepPlan, run: PlannedRun, hooks: Hooks | None = None) -> Outcome | None:
    """Trains a run to its end, from its newest checkpoint if there is one, evaluates its network, and writes its outcome last.

    Returns:
        The outcome; None if the run was asked to stop, with a checkpoint.

    Raises:
        InputError, RunError: As in training and evaluation.
    """
    config = build_run_config(folder, plan, run)
    accelerator = start_accelerator(config)
    if train(config, accelerator, hooks=hooks).stopped:
        return None
    images_per_s = evaluate(config.run.folder, accelerator, plan.split)
    outcome = measure_outcome(config.run.folder, images_per_s)
    folder.write_outcome(run, outcome)
    return outcome


def start_accelerator(config: Config) -> Accelerator:
    """Returns an accelerator for another run of this process; it would otherwise keep the precision of the run before."""
    gc.collect()  # the networks of the run before
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    AcceleratorState._reset_state()
    return build_accelerator(config.train.precision, config.guard.timeout_s)


def evaluate(folder: Path, accelerator: Accelerator, split: str) -> float:
    """Evaluates the best network of a finished run. Returns the images per second, each answered for all tasks."""
    config = read_run_config(folder, "matl-sweep")
    with lock_folder(folder):
        return evaluate_split(config, accelerator, split, "best" if config.checkpoint.best else "newest")


def measure_outcome(folder: Path, images_per_s: float) -> Outcome:
    """Returns what a finished run has cost, from its records."""
    resolved, data = resolve_offline(read_run_config(folder, "matl-sweep"))
    costs = measure_costs(resolved, data)
    last = read_last_draws(folder)
    route_of = dict(zip(data.task_names, resolved.routes.routes.route_of, strict=True))
    draws = {route_of[task]: number for task, number in zip(last["task"], last["draws"], strict=True)}
    images, labels, multiply_adds = measure_trained(
        costs, draws, read_dense_draws(folder) if costs.dense_share else None
    )
    return Outcome(
        status="finished",
        steps=last["step"][0],
        seconds=sum_step_seconds(folder),
        images=images,
        labels=labels,
        multiply_adds=multiply_adds,
        passes=labels / max(costs.num_labels, 1),
        parameters=costs.parameters,
        images_per_s=images_per_s,
    )


def read_last_draws(folder: Path) -> dict[str, list[Any]]:
    """Returns the columns of the last rows of draws.parquet: a run is evaluated after its last step."""
    table = GrowingTable(RunFolder(folder).draws_file).read()
    columns: dict[str, list[Any]] = table.filter(pc.field("step") == pc.max(table["step"])).to_pydict()
    return columns


def sum_step_seconds(folder: Path) -> float:
    """Returns the seconds of all training steps, by the records of a run; evaluations and checkpoints are not in them."""
    seconds, before = 0.0, 0
    for record in read_records(folder):
        if "train/step_s" in record:
            seconds += record["train/step_s"] * (record["step"] - before)
            before = record["step"]
    return seconds
