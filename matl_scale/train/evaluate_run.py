"""Evaluates a network of a finished or running run on one split, and adds the result to its folder."""

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from accelerate import Accelerator
from rich.console import Console

from matl_scale.cli import program_name
from matl_scale.errors import InputError
from matl_scale.metrics.task_metrics import TaskMetrics
from matl_scale.runs.checkpoints.compatibility import check_tasks
from matl_scale.runs.checkpoints.decisions import open_decisions
from matl_scale.runs.checkpoints.network import open_network, restore_network
from matl_scale.runs.decided import measure_with, with_decided
from matl_scale.runs.layout import CONFIG_FILE, RunFolder
from matl_scale.runs.records import LocalLog, read_status
from matl_scale.storage.locks import lock_folder
from matl_scale.tracking.recorder import Recorder
from matl_scale.train.build import build_evaluator
from matl_scale.train.collect_predictions import collect_predictions
from matl_scale.train.config import Config
from matl_scale.train.keep_predictions import keep_predictions
from matl_scale.train.parse_config import parse_config
from matl_scale.train.prediction_log import PredictionLog
from matl_scale.train.process_group import build_accelerator, on_main
from matl_scale.train.run_data import build_run_data


def run_evaluation(folder: Path, split: str | None, which: str) -> str | None:
    """Evaluates a network of a run (`which`, as for `open_network`) on a split, or on the run's `eval.split`, and adds the result
    to the run's files.

    Returns:
        The split that was evaluated, on the first rank; None on the others.
    """
    config = read_run_config(folder, "matl-evaluate")
    split = split or config.eval.split
    accelerator = build_accelerator(config.train.precision, config.guard.timeout_s)
    with contextlib.ExitStack() as stack:
        on_main(accelerator, lambda: stack.enter_context(lock_folder(folder)))
        evaluate_split(config, accelerator, split, which)
    accelerator.end_training()
    return split if accelerator.is_main_process else None


def read_run_config(folder: Path, program: str) -> Config:
    """Returns the config of a run, for a command that works on its folder later; raises `InputError` if it is none."""
    if not RunFolder(folder).config_file.is_file():
        raise InputError(f"{folder} is not a run: it has no {CONFIG_FILE}.")
    config = parse_config(["--config", str(RunFolder(folder).config_file)], program_name(program), "")
    # the folder may have been moved or renamed since
    return replace(config, run=replace(config.run, name=folder.resolve().name, dir=str(folder.resolve().parent)))


def evaluate_split(config: Config, accelerator: Accelerator, split: str, which: str) -> float:
    """Evaluates a network of a run on a split. All ranks have to call it.

    Returns:
        How many images per second were answered for all tasks, by all ranks together.
    """
    folder = config.run.folder
    data = build_run_data(config.data)
    if accelerator.is_main_process:
        for note in data.notes:
            Console(stderr=True).print(note, highlight=False, markup=False)
    checkpoint = on_main(accelerator, lambda: open_network(folder, which))
    check_tasks(checkpoint, tasks=data.num_classes)
    evaluator = build_evaluator(
        config, accelerator, restore_network(checkpoint, accelerator.device), data.evaluation(split)
    )
    decisions = on_main(accelerator, lambda: open_decisions(checkpoint))
    log = PredictionLog(list(data.num_classes.values()))
    begin = time.perf_counter()
    counted = evaluator.run(lambda: True, log)
    images_per_s = len(evaluator.data.sample_ids) / max(time.perf_counter() - begin, 1e-9)
    assert counted is not None
    predictions = collect_predictions(accelerator, log, data, split, checkpoint.step, checkpoint.sha256)

    def measure() -> TaskMetrics:
        assert predictions is not None
        keep_predictions(RunFolder(folder), predictions)
        return with_decided(counted, measure_with(predictions, decisions))

    metrics = on_main(accelerator, measure)
    if accelerator.is_main_process:
        record_again(config, data.task_names, checkpoint.step, {split: metrics})
        if evaluator.data.damage.found:
            Console(stderr=True).print(evaluator.data.damage.describe(), highlight=False, markup=False)
    return images_per_s


def record_again(config: Config, tasks: Sequence[str], step: int, metrics_of: Mapping[str, TaskMetrics]) -> None:
    """Records evaluations of a run that is not under way, given by their splits; they replace earlier ones of the same step.

    The run's status stays as it is.
    """
    folder = config.run.folder
    status = read_status(folder)
    for split in metrics_of:
        LocalLog(folder).forget_evaluation(step, split)
    recorder = Recorder(folder, config.track, tasks, enabled=True)
    for split, metrics in metrics_of.items():
        recorder.record_evaluation(step, split, metrics)
    recorder.finish(status)
    recorder.close()
