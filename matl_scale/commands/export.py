"""Writes the sub-networks of tasks as networks of their own, dense and without routing: a file per task or per route, with σ² of
the size, or one file with all tasks. With --format hub, writes the routed network as a folder for a model hub instead.

Every file is read back and compared with the run's network. Exit codes: 0 equal, 1 a file gives something else, 2 something
given cannot be used.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from matl_scale.cli import program_name, run_command
from matl_scale.deploy.export.description import FORMATS
from matl_scale.deploy.task_rules import OUTPUTS
from matl_scale.errors import InputError
from matl_scale.runs.layout import WHICH

if TYPE_CHECKING:
    from matl_scale.deploy.export.export_run import Exported

HUB = "hub"


def main(arguments: Sequence[str] | None = None) -> int:
    program = program_name("matl-export")
    parser = argparse.ArgumentParser(prog=program, description=__doc__)
    parser.add_argument("--run", type=Path, required=True, metavar="DIR", help="the run's folder, as runs/NAME")
    chosen = parser.add_mutually_exclusive_group()
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
    parser.add_argument(
        "--format",
        choices=(*FORMATS, HUB),
        default="safetensors",
        help="of the files (default: safetensors); hub: a folder with weights, description and model card, which has all tasks",
    )
    parser.add_argument(
        "--output",
        choices=OUTPUTS,
        default="logits",
        help="what the files give: logits as trained, calibrated probabilities, or indices of decided classes (default: logits)",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for the files (default: DIR/export of the run)")
    parser.add_argument("--checkpoint", default="best", metavar="WHICH", help=WHICH)

    return run_command(program, lambda: export_and_print(parser.parse_args(arguments)))


def export_and_print(options: argparse.Namespace) -> int:
    """Writes the files, and prints what each is. Returns the exit code."""
    check_choice_of_tasks(options)
    console = Console()
    for exported in write_files(options):
        console.print(exported.describe(), highlight=False, markup=False, soft_wrap=True)
        exported.check()
    return 0


def check_choice_of_tasks(options: argparse.Namespace) -> None:
    if options.format == HUB and (options.task or options.route or options.output != "logits"):
        raise InputError(
            "--format hub writes the whole network, which gives logits, probabilities and decisions: leave out --task, --route "
            "and --output."
        )
    if options.format != HUB and not (options.task or options.route or options.all):
        raise InputError("One of --task NAME, --route NAME and --all should be given.")


def write_files(options: argparse.Namespace) -> Iterator["Exported"]:
    if options.format == HUB:
        from matl_scale.commands.export_hub import export_hub

        yield export_hub(options.run, options.out, options.checkpoint)
        return
    from matl_scale.deploy.export.export_run import export_run

    yield from export_run(
        options.run,
        options.format,
        tasks=options.task,
        routes=options.route,
        out=options.out,
        which=options.checkpoint,
        output=options.output,
    )


if __name__ == "__main__":
    sys.exit(main())
