"""Runs suites: chooses them, measures their figures, prints and writes the results.

Suites for one rank run in a process of its own that rank 0 starts, so that the other ranks do not disturb them.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from rich.console import Console
from rich.table import Table

from matl_scale.benchmark import (
    cost,
    decide,
    evaluation,
    export,
    features,
    labels,
    losses,
    many_tasks,
    memory,
    prediction,
    reading,
    routes,
    sharding,
    shared_images,
    step,
    sync,
    tracking,
)
from matl_scale.benchmark.figure import Conditions, Figure, Result
from matl_scale.benchmark.studies.runner import STUDIES, run_studies
from matl_scale.benchmark.studies.workbench import Workbench
from matl_scale.device import device_name
from matl_scale.errors import InputError, check_at_least, check_writable, nearest
from matl_scale.launcher import VARIABLES, read_launch
from matl_scale.storage.files import write_json
from matl_scale.train.process_group import build_accelerator

SUITES: dict[str, Callable[[Conditions], list[Figure]]] = {
    "step": step.figures,
    "eval": lambda conditions: evaluation.figures(conditions) + prediction.figures(conditions),
    "losses": losses.figures,
    "features": features.figures,
    "decide": decide.figures,
    "routes": routes.figures,
    "sync": sync.figures,
    "memory": memory.figures,
    "labels": labels.figures,
    "many_tasks": many_tasks.figures,
    "cost": cost.figures,
    "data": lambda conditions: sharding.figures(conditions) + reading.figures(conditions) + shared_images.figures(),
    "export": export.figures,
    "tracking": lambda conditions: tracking.figures(conditions) + many_tasks.mlflow_figures(),
}
ON_RANKS = ("sync",)  # these need several ranks; the others run on one
# not by default. decide, features, labels, many_tasks, routes and data take minutes; export: ONNX's packages; tracking: Chromium
BY_NAME = ("decide", "features", "labels", "many_tasks", "routes", "data", "export", "tracking")
DATA_SETS = ("fashion_mnist", "cifar100")  # of the suite data and the studies
COLUMNS = ("ratio of minima", "median", "10 % to 90 % of rounds", "minima", "numerator ÷ denominator, goal")
TIMEOUT_S = 24 * 3600.0  # how long the other ranks may wait for the suites on rank 0


@dataclass(frozen=True, kw_only=True)
class BenchmarkOptions:
    """What to measure."""

    suites: Sequence[str]  # none: those that run by default
    rounds: int  # per figure
    only: str  # part of the names of the figures to measure
    json: Path | None  # file for the results
    data: Mapping[str, Path]  # folders of data sets, by name
    work: Path | None = None  # folder of the studies: their data, runs and tables


def run_benchmark(options: BenchmarkOptions) -> None:
    """Measures, prints tables, and writes the results if asked to.

    Raises:
        InputError: An option cannot be used.
    """
    check_options(options)
    if options.suites and all(suite in STUDIES for suite in options.suites):
        run_studies(options.suites, open_workbench(options, read_launch().world_size))
        return
    suites = choose_suites(options.suites, read_launch().world_size)
    accelerator = build_accelerator("fp32", timeout_s=TIMEOUT_S)
    conditions = Conditions(
        device=accelerator.device,
        rounds=options.rounds,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        data=options.data,
    )
    chosen = {suite: [each for each in SUITES[suite](conditions) if options.only in each.name] for suite in suites}
    if not any(chosen.values()):
        raise InputError(f"--only should be part of a figure's name in {', '.join(suites)}. Got {options.only!r}.")
    results: list[Result] = []
    if conditions.world_size > 1:
        alone = [suite for suite, figures in chosen.items() if figures and suite not in ON_RANKS]
        if alone and conditions.rank == 0:
            results = measure_alone(alone, options)
        dist.barrier()
        chosen = {suite: figures for suite, figures in chosen.items() if suite in ON_RANKS}
    results += measure(chosen, conditions)
    if conditions.rank == 0 and options.json is not None:
        write_json(options.json, [asdict(result) for result in results])
    accelerator.end_training()


def check_options(options: BenchmarkOptions) -> None:
    """Raises `InputError` if an option cannot be used."""
    for suite in options.suites:
        known = (*SUITES, *STUDIES)
        if suite not in known:
            raise InputError(f"The suite should be one of {', '.join(known)}. Got {suite!r}." + nearest(suite, known))
    studies = [suite for suite in options.suites if suite in STUDIES]
    if studies and len(studies) < len(options.suites):
        raise InputError(f"The studies {', '.join(studies)} should not be started together with suites of figures.")
    check_at_least(1, {"--rounds": options.rounds})
    if options.json is not None:
        check_writable("--json", options.json)
    for name, path in options.data.items():
        if not path.is_dir():
            raise InputError(f"{option_of(name)} should be a folder. Got {path}.")


def open_workbench(options: BenchmarkOptions, world_size: int) -> Workbench:
    """Returns the folder and the data of studies.

    Raises:
        InputError: An option that they need is missing, or there are several ranks.
    """
    if world_size > 1:
        raise InputError(f"A study should run in one process. Got {world_size}.")
    if options.work is None:
        raise InputError("--work should be given for a study: the folder for its data, runs and tables.")
    for suite in options.suites:
        for name in STUDIES[suite].needs:
            if name not in options.data:
                raise InputError(f"{option_of(name)} should be given for the study `{suite}`.")
    return Workbench(work=options.work, data=options.data, only=options.only)


def choose_suites(wanted: Sequence[str], world_size: int) -> list[str]:
    """Returns the suites to run.

    Raises:
        InputError: A suite needs more ranks.
    """
    for suite in wanted:
        if suite in ON_RANKS and world_size < 2:
            raise InputError(
                f"The suite `{suite}` should have at least 2 ranks. Got {world_size}. Start it with `accelerate launch "
                f"--config_file launch/accelerate/cpu.yaml --num_processes 2 launch/benchmark.py {suite}`."
            )
    runnable = [suite for suite in SUITES if world_size > 1 or suite not in ON_RANKS]
    return list(wanted) or [suite for suite in runnable if suite not in BY_NAME]


def measure(chosen: Mapping[str, Sequence[Figure]], conditions: Conditions) -> list[Result]:
    """Measures figures, given by suite, and prints them."""
    console = Console(stderr=True, quiet=conditions.rank != 0)
    figures = [(suite, figure) for suite in chosen for figure in chosen[suite]]
    results = []
    for number, (suite, figure) in enumerate(figures, start=1):
        text = f"[{number}/{len(figures)}] {figure.name}: {conditions.rounds} rounds"
        console.print(text, markup=False, highlight=False)
        results.append(figure.measure(suite, conditions))
        console.print(f"    {results[-1].ratio:.3f} (median {results[-1].median:.3f})", highlight=False)
    if figures and conditions.rank == 0:
        print_table([figure for _, figure in figures], results, conditions)
    return results


def print_table(figures: Sequence[Figure], results: Sequence[Result], conditions: Conditions) -> None:
    """Prints a row for each figure."""
    device = conditions.device
    where = device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    table = Table(title=f"{device.type}, {where}, {conditions.world_size} ranks, {results[0].rounds} rounds")
    table.add_column("figure")
    for column in COLUMNS:
        table.add_column(column, justify="right")
    for figure, result in zip(figures, results, strict=True):
        spread = f"{result.low:.3f} to {result.high:.3f}"
        minima = f"{result.numerator:.4g} / {result.denominator:.4g} {figure.unit}"
        table.add_row(figure.name, f"{result.ratio:.3f}", f"{result.median:.3f}", spread, minima, figure.meaning)
    Console(width=None if sys.stdout.isatty() else 180).print(table)


def measure_alone(suites: Sequence[str], options: BenchmarkOptions) -> list[Result]:
    """Measures suites in a process that knows nothing of the other ranks."""
    environment = {key: value for key, value in os.environ.items() if key not in VARIABLES}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "results.json"
        arguments = [*suites, "--rounds", str(options.rounds), "--only", options.only, "--json", str(file)]
        for name, path in options.data.items():
            arguments += [option_of(name), str(path)]
        command = [sys.executable, "-m", "matl_scale.commands.benchmark", *arguments]
        subprocess.run(command, check=True, env=environment)
        return [Result(**entry) for entry in json.loads(file.read_text(encoding="utf-8"))]


def option_of(data_set: str) -> str:
    """Returns the command line option for the folder of a data set."""
    return f"--{data_set.replace('_', '-')}"
