"""Trains several arms on one shard set with equal budgets, each with several seeds, so that they can be compared.

Beside the options below it takes --config FILE and every key of matl-train: what all runs have in common. The same line started
again goes on where the sweep has stopped. `matl-report --sweep DIR` says which arm to use.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from matl_scale.cli import program_name, run_command
from matl_scale.errors import InputError, shortened
from matl_scale.extras import require
from matl_scale.report.terminal.console import build_console, print_line
from matl_scale.runs.sweep_folder import Search, SweepFolder, SweepPlan
from matl_scale.sweep.arms import describe_arms, read_arms
from matl_scale.sweep.budget import read_budget
from matl_scale.sweep.draft import SweepRequest
from matl_scale.sweep.open_sweep import ARRAY, OpenedSweep, mark_start, open_sweep, plan_sweep
from matl_scale.sweep.plan_file import expand_plan
from matl_scale.sweep.progress import SweepProgress
from matl_scale.sweep.supervise import Supervisor, list_waiting
from matl_scale.sweep.vary import read_varied
from matl_scale.text import count_of
from matl_scale.train.health.stop import EXIT_STOPPED, StopRequest
from matl_scale.train.parse_config import parse_config

DEFAULT_SEEDS = "3"


def main(arguments: Sequence[str] | None = None) -> int:
    program = program_name("matl-sweep")
    given = list(sys.argv[1:] if arguments is None else arguments)
    return run_command(program, lambda: start(given, program))


def build_parser(program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program,
        description=__doc__,
        allow_abbrev=False,
        usage="%(prog)s --config FILE [--section.key VALUE ...] --arms ARM,... --out DIR [options]\n"
        "       %(prog)s --plan FILE [options]",
    )
    parser.add_argument(
        "--plan",
        metavar="FILE",
        help="YAML file with these options, and keys of the config under `set`; options beside it win",
    )
    parser.add_argument(
        "--arms",
        required=True,
        metavar="ARM,…",
        help=f"what to compare: {describe_arms()}, or YAML files of config sections",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the sweep's folder")
    parser.add_argument(
        "--seeds",
        default=DEFAULT_SEEDS,
        metavar="N",
        help="how many seeds, from 0, or a list as 5,6,7 (default: %(default)s)",
    )
    parser.add_argument(
        "--vary",
        action="append",
        default=[],
        metavar="KEY=V1,V2,…",
        help="values of a config key for each arm that does not set it; T=… is the number of tasks. May be given several times",
    )
    parser.add_argument(
        "--budget",
        default="compute",
        metavar="KIND[=AMOUNT]",
        help="what all arms have equally much of: compute (multiply-adds of training), labels, steps or minutes; as much as "
        "`dense`, or the first arm, has by the config, or an amount (default: %(default)s)",
    )
    parser.add_argument(
        "--parallel", type=int, metavar="N", help="runs at a time (default: one per GPU, or one per core)"
    )
    parser.add_argument(
        "--single-tasks",
        nargs="+",
        default=[],
        metavar="PATTERN",
        help="the tasks of the arm `single` (default: all, up to 20)",
    )
    parser.add_argument(
        "--tune",
        type=int,
        default=0,
        metavar="N",
        help="first search learning rate, weight decay, σ and number of routes of every variant: N trials with the budget of its "
        "runs, compared on the split of eval.split (default: %(default)s, none; extra: tune)",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the plan and write nothing")
    return parser


def start(given: list[str], program: str) -> int:
    """Plans and runs a sweep. Returns the exit code."""
    options, config_arguments = build_parser(program).parse_known_args(expand_plan(given))
    opened = open_as_asked(options, config_arguments, program)
    console = build_console()
    for line in opened.lines:
        print_line(console, line)
    print_line(console, describe_plan(opened))
    return 0 if options.dry_run else run_sweep(opened)


def open_given(given: Sequence[str]) -> OpenedSweep:
    """Plans the sweep that arguments ask for, or opens it where it is planned already, and starts none of its runs."""
    options, config_arguments = build_parser("matl-sweep").parse_known_args(expand_plan(list(given)))
    return open_as_asked(options, config_arguments, "matl-sweep")


def open_as_asked(options: argparse.Namespace, config_arguments: list[str], program: str) -> OpenedSweep:
    """Plans the sweep that options and keys of the config ask for; writes nothing for a dry run."""
    if options.parallel is not None and options.parallel < 1:
        raise InputError(f"`--parallel` should be at least 1. Got {options.parallel}.")
    if options.tune < 0:
        raise InputError(f"`--tune` should be at least 1, or 0 to search nothing. Got {options.tune}.")
    if options.tune:
        require("tune", "optuna", purpose="--tune")
    request = SweepRequest(
        config=parse_config(config_arguments, program, ""),
        arms=read_arms([name for name in options.arms.split(",") if name], config_arguments, program),
        seeds=read_seeds(options.seeds),
        varied=read_varied(options.vary, config_arguments, program),
        budget=read_budget(options.budget),
        single_tasks=options.single_tasks,
        experiment=options.out.absolute().name,
        tune=options.tune,
    )
    plan_it = plan_sweep if options.dry_run else open_sweep
    return plan_it(request, options.out, options.parallel or 0)


def read_seeds(text: str) -> list[int]:
    """Reads a number of seeds, or a list of them; raises `InputError` if it is neither."""
    parts = [part for part in text.split(",") if part.strip()]
    if not parts or not all(part.strip().isascii() and part.strip().isdigit() for part in parts):
        raise InputError(f"`--seeds` should be a number of seeds, or a list as 5,6,7. Got {text!r}.")
    numbers = [int(part) for part in parts]
    seeds = numbers if "," in text else list(range(numbers[0]))
    if not seeds or len(set(seeds)) < len(seeds):
        raise InputError(f"`--seeds` should be at least one seed, and each once. Got {text!r}.")
    return seeds


def describe_plan(opened: OpenedSweep) -> str:
    plan, number = opened.plan, len(opened.shares)
    seeds = f"seed{'s' * (len(plan.seeds) > 1)} {', '.join(map(str, plan.seeds))}"
    runs = f"{count_of(len(plan.runs), 'run')}: {count_of(len(plan.variants), 'variant')} × {seeds}"
    tuned = f"each variant after {count_of(plan.tune, 'trial')}; " if plan.tune else ""
    return f"{runs}; {tuned}{number} at a time, compared on {plan.split}"


def run_sweep(opened: OpenedSweep) -> int:
    """Does the runs that have no outcome yet. Returns the exit code."""
    folder, plan, console = opened.folder, opened.plan, build_console()
    since = mark_start(folder)
    waiting = list_waiting(folder, plan, since)
    progress = SweepProgress(folder, plan, waiting, lambda line: print_line(console, line))
    if num_done := len(plan.runs) - sum(not isinstance(work, Search) for work in waiting):
        print_line(console, f"finished already: {count_of(num_done, 'run')}")
    supervisor = Supervisor(
        folder=folder,
        waiting=waiting,
        since=since,
        shares=opened.shares,
        on_end=progress.end,
        on_note=progress.say,
        leave_others=ARRAY in os.environ,
    )
    with StopRequest() as stop:
        if not supervisor.run(stop):
            print_line(console, f"stopped ({stop.explain()}); the same line started again goes on")
            stop.confirm(0)
            return EXIT_STOPPED
    return describe_end(folder, plan)


def describe_end(folder: SweepFolder, plan: SweepPlan) -> int:
    """Says how many runs have which end. Returns the exit code."""
    console, outcomes = build_console(), [folder.read_outcome(run) for run in plan.runs]
    failed = [
        run.name for run, each in zip(plan.runs, outcomes, strict=True) if each is not None and each.status == "failed"
    ]
    if under_way := outcomes.count(None):
        print_line(console, f"left to other processes that work at this sweep: {count_of(under_way, 'run')}")
    if failed:
        print_line(console, f"failed: {shortened(failed)}; the same line started again repeats what failed")
    print_line(console, f"compare them: matl-report --sweep {folder.path}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
