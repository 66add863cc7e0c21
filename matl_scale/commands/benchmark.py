"""Measures what routing costs and saves here, each figure beside its reference. Start it plainly, or with `accelerate launch`
on at least two ranks for the suite `sync`; the other suites then run on the first rank alone."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from rich.console import Console
from rich.table import Table

from matl_scale.benchmark import evaluation, export, memory, reading, sharding, step, sync, tracking
from matl_scale.benchmark.measure import Measure, Result, Setup
from matl_scale.cli import program_name, run_command
from matl_scale.errors import InputError, nearest
from matl_scale.storage.files import write_json
from matl_scale.train.process_group import build_accelerator

ON_ONE_RANK: dict[str, Callable[[Setup], list[Measure]]] = {
    "step": step.measures,
    "eval": evaluation.measures,
    "memory": memory.measures,
    "data": lambda setup: sharding.measures(setup) + reading.measures(setup),
    "export": export.measures,
    "tracking": tracking.measures,
}
ON_RANKS: dict[str, Callable[[Setup], list[Measure]]] = {"sync": sync.measures}
SUITES = ("step", "eval", "sync", "memory", "data", "export", "tracking")
# minutes long, and about the disk as much as about the machine; needs the packages of ONNX; needs Chromium
BY_NAME = ("data", "export", "tracking")
DATA_SETS = ("fashion_mnist", "cifar100")
TIMEOUT_S = 24 * 3600.0  # ranks without a part in a suite wait for the first


@dataclass(frozen=True, kw_only=True)
class Options:
    """The command line."""

    suites: list[str]
    rounds: int
    only: str
    json: Path | None
    fashion_mnist: Path | None
    cifar100: Path | None


def main(arguments: Sequence[str] | None = None) -> int:
    program = program_name("matl-benchmark")
    parser = argparse.ArgumentParser(prog=program, description=__doc__)
    parser.add_argument(
        "suites",
        nargs="*",
        metavar="SUITE",
        help=f"{', '.join(SUITES)} (default: all that the ranks allow, but data, export and tracking)",
    )
    parser.add_argument("--rounds", type=int, default=20, metavar="N", help="rounds per figure (default: 20)")
    parser.add_argument("--only", metavar="TEXT", default="", help="figures whose name contains this")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, as a list of objects")
    for name in DATA_SETS:
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=Path, metavar="DIR", help="its files, for the suite data"
        )
    options = Options(**vars(parser.parse_args(arguments)))
    return run_command(program, lambda: run_benchmark(options))


def run_benchmark(options: Options) -> int:
    """Measures, prints tables, and writes the figures if asked to. Returns the exit code."""
    suites = choose_suites(options, int(os.environ.get("WORLD_SIZE", "1")))
    accelerator = build_accelerator("fp32", timeout_s=TIMEOUT_S)
    setup = Setup(
        device=accelerator.device,
        rounds=options.rounds,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        data=data_sets(options),
    )
    rows = [row for suite in suites for row in (ON_ONE_RANK | ON_RANKS)[suite](setup) if options.only in row.name]
    if not rows:
        raise InputError(f"--only should be part of a figure's name in {', '.join(suites)}. Got {options.only!r}.")
    results: list[Result] = []
    if setup.world_size > 1:
        alone = sorted({row.suite for row in rows if row.suite in ON_ONE_RANK}, key=SUITES.index)
        if alone and setup.rank == 0:
            results = measure_alone(alone, options)
        dist.barrier()
        rows = [row for row in rows if row.suite in ON_RANKS]
    results += measure(rows, options, setup)
    if setup.rank == 0 and options.json is not None:
        write_json(options.json, [asdict(result) for result in results])
    accelerator.end_training()
    return 0


def data_sets(options: Options) -> dict[str, Path]:
    """Returns the folders of the data sets that are there.

    Raises:
        InputError: One is none.
    """
    found = {name: path for name in DATA_SETS if (path := getattr(options, name)) is not None}
    for name, path in found.items():
        if not path.is_dir():
            raise InputError(f"--{name.replace('_', '-')} should be a folder. Got {path}.")
    return found


def choose_suites(options: Options, world_size: int) -> list[str]:
    """Returns the suites to run.

    Raises:
        InputError: A suite is unknown or needs more ranks.
    """
    for suite in options.suites:
        if suite not in SUITES:
            raise InputError(f"The suite should be one of {', '.join(SUITES)}. Got {suite!r}." + nearest(suite, SUITES))
        if suite in ON_RANKS and world_size < 2:
            raise InputError(
                f"The suite `{suite}` should have at least 2 ranks. Got {world_size}. Start it with `accelerate launch "
                f"--config_file launch/accelerate/cpu.yaml --num_processes 2 launch/benchmark.py {suite}`."
            )
    if options.rounds < 1:
        raise InputError(f"--rounds should be at least 1. Got {options.rounds}.")
    if options.json is not None and not options.json.absolute().parent.is_dir():
        raise InputError(f"--json should be a file in a folder that exists. Got {options.json}.")
    return options.suites or [
        suite for suite in SUITES if suite not in BY_NAME and (world_size > 1 or suite in ON_ONE_RANK)
    ]


def measure(rows: list[Measure], options: Options, setup: Setup) -> list[Result]:
    """Runs figures and prints them."""
    console = Console(stderr=True, quiet=setup.rank != 0)
    results = []
    for number, row in enumerate(rows, start=1):
        console.print(f"[{number}/{len(rows)}] {row.name}: {options.rounds} rounds", markup=False, highlight=False)
        results.append(row.run(setup))
        console.print(f"    {results[-1].ratio:.3f} (median {results[-1].median:.3f})", highlight=False)
    if rows and setup.rank == 0:
        print_table(rows, results, setup)
    return results


def measure_alone(suites: list[str], options: Options) -> list[Result]:
    """Runs suites in a process that knows nothing of the other ranks."""
    launcher = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    environment = {key: value for key, value in os.environ.items() if key not in launcher}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "figures.json"
        command = [sys.executable, "-m", "matl_scale.commands.benchmark", *suites]
        command += ["--rounds", str(options.rounds), "--only", options.only]
        for name, path in data_sets(options).items():
            command += [f"--{name.replace('_', '-')}", str(path)]
        subprocess.run([*command, "--json", str(file)], check=True, env=environment)
        return [Result(**entry) for entry in json.loads(file.read_text(encoding="utf-8"))]


def print_table(rows: list[Measure], results: list[Result], setup: Setup) -> None:
    place = (
        torch.cuda.get_device_name(setup.device)
        if setup.device.type == "cuda"
        else f"{torch.get_num_threads()} threads"
    )
    table = Table(title=f"{setup.device.type}, {place}, {setup.world_size} ranks, {results[0].rounds} rounds")
    columns = (
        "figure",
        "ratio of minima",
        "median",
        "10 % to 90 % of rounds",
        "minima",
        "numerator ÷ denominator, goal",
    )
    for column in columns:
        table.add_column(column, justify="left" if column == "figure" else "right")
    for row, result in zip(rows, results, strict=True):
        spread = f"{result.low:.3f} to {result.high:.3f}"
        minima = f"{result.numerator:.4g} / {result.denominator:.4g} {row.unit}"
        table.add_row(row.name, f"{result.ratio:.3f}", f"{result.median:.3f}", spread, minima, row.meaning)
    Console(width=None if sys.stdout.isatty() else 180).print(table)


if __name__ == "__main__":
    sys.exit(main())
