"""Fits the decisions of a run again, for another aim or on another split, without training and without reading images: from the
predictions that the run has kept. They are written beside the network, where matl-predict, matl-export and matl-report find them.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from matl_scale.cli import program_name, run_command
from matl_scale.decisions.aim import KINDS
from matl_scale.errors import InputError
from matl_scale.runs.layout import WHICH


def main(arguments: Sequence[str] | None = None) -> int:
    program = program_name("matl-decide")
    parser = argparse.ArgumentParser(prog=program, description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="the run's folder, as runs/NAME")
    parser.add_argument(
        "--aim",
        metavar="AIM",
        help=f"what decisions should be best at: {', '.join(KINDS)}, or '{{task pattern: aim, …}}' (default: decide.aim)",
    )
    parser.add_argument("--split", metavar="NAME", help="the split to fit on (default: the run's eval.split)")
    parser.add_argument("--checkpoint", default="best", metavar="WHICH", help=WHICH)
    parser.add_argument("--limit", type=int, default=10, metavar="N", help="entries per list (default: %(default)s)")
    return run_command(program, lambda: decide_and_print(parser.parse_args(arguments)))


def decide_and_print(options: argparse.Namespace) -> int:
    from matl_scale.report.terminal.console import build_console
    from matl_scale.report.terminal.decisions import print_decisions, print_splits
    from matl_scale.train.decide_run import decide_run

    found = decide_run(options.run, read_aims(options.aim), options.split, options.checkpoint)
    console = build_console()
    print_decisions(console, found.decisions, found.path, options.limit)
    print_splits(console, found.followed, found.others)
    return 0


def read_aims(text: str | None) -> str | dict[str, str] | None:
    """Reads one aim, or a mapping from task patterns to aims as in a config; raises `InputError` if it is neither."""
    if text is None or not text.startswith("{"):
        return text
    try:
        aims = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"`--aim` should be one aim, or a mapping as '{{\"rare_*\": f1}}'. Got {text!r}.") from error
    return {str(pattern): str(aim) for pattern, aim in aims.items()}


if __name__ == "__main__":
    sys.exit(main())
