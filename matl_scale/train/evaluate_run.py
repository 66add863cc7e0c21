"""Evaluates a network of a finished or running run on one split, and adds the result to its folder."""

import contextlib
from dataclasses import replace
from pathlib import Path

from accelerate import Accelerator
from rich.console import Console

from matl_scale.cli import program_name
from matl_scale.errors import InputError
from matl_scale.runs.checkpoints.compatibility import check_tasks
from matl_scale.runs.checkpoints.network import open_network, restore_network
from matl_scale.runs.layout import CONFIG_FILE, RunFolder
from matl_scale.runs.records import LocalLog, read_status
from matl_scale.storage.locks import lock_folder
from matl_scale.tracking.recorder import Recorder
from matl_scale.train.build import build_evaluator
from matl_scale.train.config import Config
from matl_scale.train.parse_config import parse_config
from matl_scale.train.prediction_log import PredictionLog
from matl_scale.train.process_group import build_accelerator, on_main
from matl_scale.train.resume.saving import save_predictions
from matl_scale.train.run_data import build_run_data


def run_evaluation(folder: Path, split: str | None, which: str) -> str | None:
    """Evaluates a network of a run (`which`, as for `open_network`) on a split, or on the run's `eval.split`, and adds the result
    to the run's files.

    Returns:
        The split that was evaluated, on the first rank; None on the others.
    """
    if not RunFolder(folder).config_file.is_file():
        raise InputError(f"--run {folder} is not a run: it has no {CONFIG_FILE}.")
    config = parse_config(["--config", str(RunFolder(folder).config_file)], program_name("matl-evaluate"), "")
    # the folder may have been moved or renamed since
    config = replace(config, run=replace(config.run, name=folder.resolve().name, dir=str(folder.resolve().parent)))
    split = split or config.eval.split
    accelerator = build_accelerator(config.train.precision, config.guard.timeout_s)
    with contextlib.ExitStack() as stack:
        on_main(accelerator, lambda: stack.enter_context(lock_folder(folder)))
        evaluate_split(config, accelerator, split, which)
    accelerator.end_training()
    return split if accelerator.is_main_process else None


def evaluate_split(config: Config, accelerator: Accelerator, split: str, which: str) -> None:
    """Evaluates a network of a run on a split. All ranks have to call it."""
    folder = config.run.folder
    status = read_status(folder)
    data = build_run_data(config.data)
    checkpoint = on_main(accelerator, lambda: open_network(folder, which))
    check_tasks(checkpoint, tasks=data.num_classes)
    evaluator = build_evaluator(
        config, accelerator, restore_network(checkpoint, accelerator.device), data.evaluation(split)
    )
    predictions = PredictionLog(list(data.num_classes.values()))
    metrics = evaluator.run(lambda: True, predictions)
    assert metrics is not None
    save_predictions(accelerator, predictions, data, split, checkpoint.step, folder)
    if accelerator.is_main_process:
        LocalLog(folder).forget_evaluation(checkpoint.step, split)
        recorder = Recorder(folder, config.track, data.task_names, enabled=True)
        recorder.record_evaluation(checkpoint.step, split, metrics)
        recorder.finish(status)
        recorder.close()
        if evaluator.data.damage.found:
            Console(stderr=True).print(evaluator.data.damage.describe(), highlight=False, markup=False)
