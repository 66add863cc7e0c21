"""What the doctor does with a config: reads what a run would read, and prints what every check finds."""

from collections.abc import Iterator, Sequence

import torch
from rich.console import Console

from matl_scale.doctor.data import check_data
from matl_scale.doctor.finding import Finding
from matl_scale.doctor.job import check_job
from matl_scale.doctor.machine import check_port, check_processors
from matl_scale.doctor.masks import check_masks
from matl_scale.doctor.memory import check_memory
from matl_scale.doctor.routes import check_routes, describe_roaming
from matl_scale.doctor.tracking import check_tracking
from matl_scale.doctor.versions import check_versions
from matl_scale.doctor.weights import check_weights
from matl_scale.errors import InputError
from matl_scale.launcher import read_count, read_launch
from matl_scale.train.config import Config
from matl_scale.train.defaults.facts import read_machine
from matl_scale.train.defaults.weights import fill_before_data
from matl_scale.train.resolve import ResolvedRun, resolve_run
from matl_scale.train.resume.start_from import find_start
from matl_scale.train.run_data import TRAIN_SPLIT, RunData, open_run_data

STYLES = {"ok": "green", "note": "cyan", "warning": "yellow", "error": "bold red"}


def run_doctor(config: Config, num_ranks: int | None) -> int:
    """Prints the findings of all checks. Returns 1 if one of them is an error, else 0."""
    read_launch()
    nodes, per_node = count_ranks(num_ranks)
    machine = read_machine(nodes * per_node, per_node)
    start = find_start(config.run.start_from)
    config = fill_before_data(config, machine, None, start)
    data = open_run_data(config)
    resolved = resolve_run(config, data, machine, None, start)
    data = data.at_size(resolved.config)
    findings = [Finding("note", "run", line + ".") for line in [*resolved.lines, *resolved.notes]]
    if resolved.config.routing.strategy == "roaming":
        findings.append(describe_roaming(resolved))
    findings += examine(resolved, data, nodes, per_node)
    print_findings(findings)
    return int(any(finding.level == "error" for finding in findings))


def examine(resolved: ResolvedRun, data: RunData, nodes: int, per_node: int) -> Iterator[Finding]:
    """Runs all checks of a run on `nodes` nodes with `per_node` ranks each."""
    config, chosen = resolved.config, resolved.routes
    try:
        for split in dict.fromkeys((TRAIN_SPLIT, config.eval.split)):
            data.manifest.check_shards(split)
    except InputError as error:
        yield Finding("error", "data", str(error))
    yield from check_data(config, data, nodes * per_node)
    yield from check_routes(config, data, chosen)
    yield from check_masks(config, chosen)
    yield from check_weights(config)
    yield from check_memory(config, data, chosen.routes, per_node, resolved.slots)
    yield from check_tracking(config, ask=True)
    yield from check_port()
    yield from check_processors(config, per_node)
    yield from check_job(config)
    yield from check_versions()


def count_ranks(asked: int | None) -> tuple[int, int]:
    """Returns the number of nodes and of ranks on each: from --ranks, the Slurm job, or the GPUs of this machine.

    Raises:
        InputError: --ranks is not a multiple of the nodes.
    """
    nodes = read_count("SLURM_JOB_NUM_NODES", 1) or 1
    if asked is not None:
        if asked < 1 or asked % nodes:
            raise InputError(f"--ranks should be a multiple of the {nodes} nodes. Got {asked}.")
        return nodes, asked // nodes
    return nodes, read_count("SLURM_GPUS_ON_NODE", 0) or torch.cuda.device_count() or 1


def print_findings(findings: Sequence[Finding]) -> None:
    """Prints a line for each finding, one for its remedy, and how many are errors and warnings."""
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
