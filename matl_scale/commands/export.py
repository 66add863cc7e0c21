"""Writes the sub-networks of tasks as networks of their own, dense and without routing: a file per task or per route, with σ² of
the size, or one file with all tasks.

Every file is read back and compared with the run's network. Exit codes: 0 equal, 1 a file gives something else, 2 something
given cannot be used.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from matl_scale.cli import program_name, run_command
from matl_scale.deploy.export.export_run import export_run
from matl_scale.deploy.export.formats import FORMATS
from matl_scale.deploy.task_rules import OUTPUTS
from matl_scale.runs.checkpoints.network import WHICH


def main(arguments: Sequence[str] | None = None) -> int:
    program = program_name("matl-export")
    parser = argparse.ArgumentParser(prog=program, description=__doc__)
    parser.add_argument("--run", type=Path, required=True, metavar="DIR", help="the run's folder, as runs/NAME")
    chosen = parser.add_mutually_exclusive_group(required=True)
    chosen.add_argument(
        "--task", action="append", metavar="NAME", help="a file per task: a task or a pattern, as '*'; may be repeated"
    )
    chosen.add_argument(
        "--route",
        action="append",
        metavar="NAME",
        help="a file per route with all its tasks: a route or a pattern; may be repeated",
    )
    chosen.add_argument(
        "--all", action="store_true", help="one file with all tasks, which computes what routes share once"
    )
    parser.add_argument("--format", choices=FORMATS, default="safetensors", help="of the files (default: safetensors)")
    parser.add_argument(
        "--output",
        choices=OUTPUTS,
        default="logits",
        help="what the files give: logits as trained, calibrated probabilities, or indices of decided classes (default: logits)",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for the files (default: DIR/export of the run)")
    parser.add_argument("--checkpoint", default="best", metavar="WHICH", help=WHICH)

    def export() -> int:
        options = parser.parse_args(arguments)
        console = Console()
        for exported in export_run(
            options.run,
            options.format,
            tasks=options.task,
            routes=options.route,
            out=options.out,
            which=options.checkpoint,
            output=options.output,
        ):
            console.print(exported.describe(), highlight=False, markup=False, soft_wrap=True)
            exported.check()
        return 0

    return run_command(program, export)


if __name__ == "__main__":
    sys.exit(main())
