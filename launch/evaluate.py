"""Evaluates a network of a run on a split: every task, every labelled sample once."""

import argparse
import contextlib
import sys
from dataclasses import replace
from pathlib import Path

from accelerate import Accelerator
from rich.console import Console

from matl_scale.config import Config, exit_with_error, parse_config
from matl_scale.errors import InputError, RunError
from matl_scale.files import lock_folder
from matl_scale.report.terminal import build_console, print_latest
from matl_scale.tracking.local import LocalLog
from matl_scale.tracking.mlflow_follower import read_status
from matl_scale.tracking.recorder import Recorder
from matl_scale.train.answers import AnswerLog
from matl_scale.train.compatibility import check_tasks
from matl_scale.train.evaluate import Evaluator
from matl_scale.train.ranks import on_main
from matl_scale.train.restore import WHICH, open_network, restore_network
from matl_scale.train.run_folder import CONFIG_FILE
from matl_scale.train.saving import save_answers
from matl_scale.train.setup import build_accelerator, open_data

PROGRAM = "evaluate.py"


def main() -> None:
    parser = argparse.ArgumentParser(prog=PROGRAM, description=__doc__)
    parser.add_argument("--run", type=Path, required=True, metavar="DIR", help="the run's folder, as runs/NAME")
    parser.add_argument("--split", metavar="NAME", help="the split to evaluate (default: the run's eval.split)")
    parser.add_argument("--checkpoint", default="best", metavar="WHICH", help=WHICH)
    options = parser.parse_args()
    try:
        run_evaluation(options.run, options.split, options.checkpoint)
    except (InputError, RunError) as error:
        exit_with_error(PROGRAM, error)


def run_evaluation(folder: Path, split: str | None, which: str) -> None:
    """Evaluates, adds the result to the run's files, and prints it."""
    if not (folder / CONFIG_FILE).is_file():
        raise InputError(f"--run {folder} is not a run: it has no {CONFIG_FILE}.")
    config = parse_config(["--config", str(folder / CONFIG_FILE)], PROGRAM, "")
    # the folder may have been moved or renamed since
    config = replace(config, run=replace(config.run, name=folder.resolve().name, dir=str(folder.resolve().parent)))
    split = split or config.eval.split
    accelerator = build_accelerator(config.train.precision, config.guard.timeout_s)
    with contextlib.ExitStack() as stack:
        on_main(accelerator, lambda: stack.enter_context(lock_folder(folder)))
        evaluate_split(config, accelerator, split, which)
    accelerator.end_training()


def evaluate_split(config: Config, accelerator: Accelerator, split: str, which: str) -> None:
    folder = config.run.folder
    status = read_status(folder)
    data = open_data(config)
    checkpoint = on_main(accelerator, lambda: open_network(folder, which))
    check_tasks(checkpoint, tasks=data.num_classes)
    model = restore_network(checkpoint, accelerator.device)
    evaluated = data.evaluation(split)
    evaluator = Evaluator(
        accelerator,
        model,
        evaluated,
        config.eval,
        config.routing.execution,
        config.train.channels_last,
        folder,
    )
    answers = AnswerLog()
    metrics = evaluator.run(lambda: True, answers)
    assert metrics is not None
    save_answers(accelerator, answers, data, split, checkpoint.step, folder)
    if accelerator.is_main_process:
        LocalLog(folder).forget_evaluation(checkpoint.step, split)
        recorder = Recorder(folder, config.track, data.task_names, enabled=True)
        recorder.evaluation(checkpoint.step, split, metrics.summary(), metrics.values, metrics.counts)
        recorder.close(status)
        print_latest(build_console(), folder, split)
        if evaluated.damage.found:
            Console(stderr=True).print(evaluated.damage.describe(), highlight=False, markup=False)


if __name__ == "__main__":
    sys.exit(main())
