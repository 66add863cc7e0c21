"""Evaluates a network of a run on a split: every task, every labelled sample once."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from matl_scale.cli import program_name, run_command
from matl_scale.runs.layout import WHICH


def main(arguments: Sequence[str] | None = None) -> int:
    program = program_name("matl-evaluate")
    parser = argparse.ArgumentParser(prog=program, description=__doc__)
    parser.add_argument("--run", type=Path, required=True, metavar="DIR", help="the run's folder, as runs/NAME")
    parser.add_argument("--split", metavar="NAME", help="the split to evaluate (default: the run's eval.split)")
    parser.add_argument("--checkpoint", default="best", metavar="WHICH", help=WHICH)
    return run_command(program, lambda: evaluate_and_print(parser.parse_args(arguments)))


def evaluate_and_print(options: argparse.Namespace) -> int:
    """Evaluates, and prints the result on the first rank. Returns the exit code."""
    from matl_scale.report.terminal.console import build_console
    from matl_scale.report.terminal.run import print_latest
    from matl_scale.train.evaluate_run import run_evaluation

    split = run_evaluation(options.run, options.split, options.checkpoint)
    if split is not None:
        print_latest(build_console(), options.run, split)
    return 0


if __name__ == "__main__":
    sys.exit(main())
