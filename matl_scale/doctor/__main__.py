"""matl-doctor: checks a run before it starts. It takes the arguments of `matl-train`, and --ranks."""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence

import torch
from rich.console import Console

from matl_scale.cli import exit_with_error
from matl_scale.doctor.data import check_data
from matl_scale.doctor.finding import Finding
from matl_scale.doctor.machine import check_job, check_port, check_processors, check_versions
from matl_scale.doctor.memory import check_memory
from matl_scale.doctor.tracking import check_tracking
from matl_scale.errors import InputError
from matl_scale.train.build import resolve_config
from matl_scale.train.config import Config, parse_config
from matl_scale.train.run_data import TRAIN_SPLIT, RunData, open_data

PROGRAM = "matl-doctor"
STYLES = {"ok": "green", "note": "cyan", "warning": "yellow", "error": "bold red"}


def main() -> int:
    """Prints all findings; the exit code is 1 if one of them is an error."""
    parser = argparse.ArgumentParser(prog=PROGRAM, add_help=False, allow_abbrev=False)
    parser.add_argument(
        "--ranks", type=int, metavar="N", help="ranks of the run (default: the job's or this machine's)"
    )
    options, arguments = parser.parse_known_args()
    if {"-h", "--help"} & set(arguments):
        print(f"usage: {PROGRAM} --config FILE [--section.key VALUE ...] [--ranks N]\n\n{__doc__}")
        return 0
    config = parse_config(arguments, PROGRAM, __doc__ or "")
    nodes, per_node = count_ranks(options.ranks)
    try:
        config = resolve_config(config)
        data = open_data(config)
        findings = list(examine(config, data, nodes, per_node))
    except InputError as error:
        exit_with_error(PROGRAM, error)
    print_findings(findings)
    return int(any(finding.level == "error" for finding in findings))


def examine(config: Config, data: RunData, nodes: int, per_node: int) -> Iterator[Finding]:
    """Runs all checks."""
    try:
        for split in {TRAIN_SPLIT, config.eval.split}:
            data.manifest.check_shards(split)
    except InputError as error:
        yield Finding("error", "data", str(error))
    yield from check_data(config, data, nodes * per_node)
    yield from check_memory(config, data, per_node)
    yield from check_tracking(config, ask=True)
    yield from check_port()
    yield from check_processors(config, per_node)
    yield from check_job(config)
    yield from check_versions()


def count_ranks(asked: int | None) -> tuple[int, int]:
    """Returns the number of nodes, and of ranks on each: from --ranks, the Slurm job, or the GPUs of this machine."""
    nodes = int(os.environ.get("SLURM_JOB_NUM_NODES", "1"))
    if asked is not None:
        if asked < 1 or asked % nodes:
            raise SystemExit(f"{PROGRAM}: error: --ranks should be a multiple of the {nodes} nodes. Got {asked}.")
        return nodes, asked // nodes
    return nodes, int(os.environ.get("SLURM_GPUS_ON_NODE", "0")) or torch.cuda.device_count() or 1


def print_findings(findings: Sequence[Finding]) -> None:
    console = Console()
    for finding in findings:
        console.print(
            f"[{STYLES[finding.level]}]{finding.level:>7}[/]  [bold]{finding.topic}[/]: ", end="", highlight=False
        )
        console.print(finding.text, highlight=False, markup=False, soft_wrap=True)
        if finding.remedy:
            console.print(f"         → {finding.remedy}", highlight=False, markup=False, soft_wrap=True)
    counts = {level: sum(finding.level == level for finding in findings) for level in ("error", "warning")}
    console.print(f"{counts['error']} errors, {counts['warning']} warnings", highlight=False)


if __name__ == "__main__":
    sys.exit(main())
