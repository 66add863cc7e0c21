"""Fits the decisions of a finished run again, for another aim or on another split, from predictions that the run has kept."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from matl_scale.decisions.table import Decisions, write_decisions
from matl_scale.errors import InputError
from matl_scale.metrics.task_metrics import TaskMetrics
from matl_scale.runs.checkpoints.decisions import decisions_path
from matl_scale.runs.checkpoints.network import open_network
from matl_scale.runs.decided import find_kept_predictions, fit_on, measure_with, name_decisions, with_decided
from matl_scale.runs.history import RunHistory
from matl_scale.runs.layout import RunFolder
from matl_scale.storage.locks import lock_folder
from matl_scale.train.config import Config
from matl_scale.train.evaluate_run import read_run_config, record_again


@dataclass(frozen=True, kw_only=True)
class DecidedRun:
    """The decisions that were fitted, and the splits whose figures follow them now, or not."""

    decisions: Decisions
    path: Path
    followed: list[str]
    others: list[str]  # last evaluated with another network, or without keeping predictions


def decide_run(folder: Path, aim: str | dict[str, str] | None, split: str | None, which: str) -> DecidedRun:
    """Fits the decisions of a network of a run (`which`, as for `open_network`), by default for the run's `decide.aim` and on its
    `eval.split`, writes them beside the network, and records the figures of the splits that it has predicted anew.

    No image is read.

    Raises:
        InputError: There is no such run, network, aim or split, or the run has not kept the predictions.
    """
    config = read_run_config(folder, "matl-decide")
    if aim is not None:
        config = replace(config, decide=replace(config.decide, aim=aim))
    split = split or config.eval.split
    with lock_folder(folder):
        checkpoint = open_network(folder, which)
        if folder.resolve() not in checkpoint.folder.resolve().parents:
            raise InputError(
                f"--checkpoint should be one of {folder}: decisions are fitted on what the run itself has predicted. Got "
                f"{checkpoint.folder}."
            )
        predictions = find_kept_predictions(folder, split, checkpoint.sha256)
        tasks = {task.name: task.num_classes for task in predictions.info.tasks}
        if tasks != checkpoint.tasks:
            raise InputError(
                f"The predictions for split `{split}` are of other tasks than the network {checkpoint.folder}. Evaluate it: "
                f"matl-evaluate --run {folder} --split {split}."
            )
        aims = config.decide.aims(list(tasks))
        fitted = fit_on(predictions, aims, checkpoint.prior_offsets)
        decisions = name_decisions(fitted, predictions, aims, checkpoint.sha256)
        write_decisions(decisions_path(checkpoint), decisions)
        # the figures of a run are those of its best network's decisions, which predictions and reports use
        is_best = checkpoint.folder.resolve().parent == RunFolder(folder).best_folder.resolve()
        followed = record_splits(config, decisions, {split: fitted.measured}) if is_best else []
        others = [name for name in RunHistory(folder).steps if name not in followed]
    return DecidedRun(decisions=decisions, path=decisions_path(checkpoint), followed=followed, others=others)


def record_splits(config: Config, decisions: Decisions, measured: Mapping[str, Mapping[str, np.ndarray]]) -> list[str]:
    """Records the decisions' figures for every split whose last evaluation is of their network and kept its predictions; returns
    these splits. `measured` has the figures that are known, by split."""
    folder, step = config.run.folder, decisions.info.step
    history, found = RunHistory(folder), dict[str, TaskMetrics]()
    for split in history.steps:
        latest = history.latest(split)
        if latest.step != step or latest.tasks != list(decisions.rules):
            continue
        try:
            values = measured.get(split) or measure_with(
                find_kept_predictions(folder, split, decisions.info.network), decisions
            )
        except InputError:  # not kept
            continue
        found[split] = replace(with_decided(latest.metrics, values), min_count=config.eval.min_count)
    record_again(config, list(decisions.rules), step, found)
    return list(found)
