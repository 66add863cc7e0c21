"""Writes the sub-networks of tasks as networks of their own, dense and without routing: a file per task or per route, with σ² of
the size, or one file with all tasks. With --format hub, writes the routed network as a folder for a model hub instead.

Every file is read back and compared with the run's network. Exit codes: 0 equal, 1 a file gives something else, 2 something
given cannot be used.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console

from matl_scale.cli import program_name, run_command
from matl_scale.deploy.export.export_run import Exported, choose_folder, export_run
from matl_scale.deploy.export.formats import FORMATS
from matl_scale.deploy.hub.write import SharedNetwork, write_hub
from matl_scale.deploy.task_rules import OUTPUTS
from matl_scale.errors import InputError
from matl_scale.report.model_card import CardNetwork, find_results, write_card
from matl_scale.runs.checkpoints.network import WHICH
from matl_scale.tasks import Task

HUB = "hub"
HUB_FOLDER = "hub"  # in the folder for exports


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

    def export() -> int:
        options = parser.parse_args(arguments)
        check_choice_of_tasks(options)
        console = Console()
        for exported in export_hub(options) if options.format == HUB else export_files(options):
            console.print(exported.describe(), highlight=False, markup=False, soft_wrap=True)
            exported.check()
        return 0

    return run_command(program, export)


def check_choice_of_tasks(options: argparse.Namespace) -> None:
    if options.format == HUB and (options.task or options.route or options.output != "logits"):
        raise InputError(
            "--format hub writes the whole network, which gives logits, probabilities and decisions: leave out --task, --route "
            "and --output."
        )
    if options.format != HUB and not (options.task or options.route or options.all):
        raise InputError("One of --task NAME, --route NAME and --all should be given.")


def export_files(options: argparse.Namespace) -> Iterator[Exported]:
    return export_run(
        options.run,
        options.format,
        tasks=options.task,
        routes=options.route,
        out=options.out,
        which=options.checkpoint,
        output=options.output,
    )


def export_hub(options: argparse.Namespace) -> Iterator[Exported]:
    network = SharedNetwork.open(options.run, options.checkpoint)
    checkpoint = network.checkpoint
    card = CardNetwork(
        name=str(checkpoint.config["run"]["name"]),
        step=checkpoint.step,
        tasks=[Task(name=name, classes=tuple(classes)) for name, classes in checkpoint.classes.items()],
        routes=checkpoint.routes,
        decisions=network.decisions,
        config=checkpoint.config,
        manifest_id=checkpoint.manifest_id,
    )
    out = choose_folder(options.run, options.out, HUB_FOLDER)
    yield write_hub(network, write_card(card, find_results(options.run, checkpoint.step, checkpoint.sha256)), out)


if __name__ == "__main__":
    sys.exit(main())
