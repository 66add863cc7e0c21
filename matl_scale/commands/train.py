"""Trains one network for all tasks of a shard set. Start it with `accelerate launch`, or plainly on one device.

Exit codes: 0 finished, 2 something given cannot be used, 75 stopped when asked to and to be started again, 1 anything else.
"""

import sys
from collections.abc import Sequence

import torch.distributed as dist

from matl_scale.cli import program_name, run_command
from matl_scale.doctor.quick_checks import run_quick_checks
from matl_scale.errors import InputError
from matl_scale.metrics.task_metrics import describe_not_learned
from matl_scale.report.terminal.console import build_console, print_line
from matl_scale.report.terminal.run import print_latest
from matl_scale.tracking.mlflow_store import how_to_view
from matl_scale.train.config import Config
from matl_scale.train.health.stop import exit_code_of_stop
from matl_scale.train.parse_config import parse_config
from matl_scale.train.process_group import build_accelerator
from matl_scale.train.run import RunOutcome, train


def main(arguments: Sequence[str] | None = None) -> int:
    program = program_name("matl-train")
    given = sys.argv[1:] if arguments is None else arguments
    return run_command(program, lambda: run_training(parse_config(given, program, __doc__ or "")))


def run_training(config: Config) -> int:
    """Trains, and prints the outcome on the first rank. Returns the exit code."""
    try:
        accelerator = build_accelerator(config.train.precision, config.guard.timeout_s)
        outcome = train(config, accelerator, run_quick_checks)
    except InputError:
        if dist.is_initialized():  # all ranks meet it; gloo's threads must not outlive the interpreter
            dist.destroy_process_group()
        raise
    if accelerator.is_main_process:
        print_outcome(config, outcome)
    accelerator.end_training()
    return exit_code_of_stop() if outcome.stopped else 0


def print_outcome(config: Config, outcome: RunOutcome) -> None:
    console = build_console()
    if not outcome.stopped:
        latest = print_latest(console, config.run.folder, config.eval.split).latest
        # said above, too, but these are the lines that are read
        print_line(console, f"tasks {describe_not_learned(latest.metrics, latest.tasks)}")
    print_line(console, f"results: {config.run.folder}")
    if config.track.mlflow and (address := how_to_view(config.run.folder)):
        print_line(console, f"look at it: {address}")


if __name__ == "__main__":
    sys.exit(main())
