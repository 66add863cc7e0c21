"""matl-report: how good a run is task by task, how runs differ beyond the noise of the test samples, and a page to send.

One RUN is summed up. Two are compared task by task. Several of one config, as seeds, show their spread; runs of several
configs are compared group against group, each with the first. A sweep is answered: which variant to use, and why.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from matl_scale.cli import run_command
from matl_scale.errors import InputError, check_choice, check_writable, shortened
from matl_scale.extras import require
from matl_scale.metrics.names import PAIRED_METRICS
from matl_scale.report.as_json import results_to_json
from matl_scale.report.comparison.results import Question, Results
from matl_scale.report.comparison.runs import compare_runs
from matl_scale.report.comparison.single_task_baseline import compare_with_single_tasks
from matl_scale.report.facts import collect_facts
from matl_scale.report.open_runs import choose_split, open_runs
from matl_scale.report.suspects.suspect_list import SuspectList, write_suspects
from matl_scale.report.sweep.command import report_sweep
from matl_scale.report.sweep.picture import KINDS
from matl_scale.report.sweep.results import SWEEP_METRICS, SweepResults
from matl_scale.report.terminal.comparison import print_comparison, print_spread
from matl_scale.report.terminal.console import build_console, print_line
from matl_scale.report.terminal.run import print_run
from matl_scale.report.terminal.suspects import print_suspects
from matl_scale.runs.history import RunHistory
from matl_scale.storage.files import write_json

PROGRAM = "matl-report"


def write_html_page(path: Path, results: Results, task_patterns: Sequence[str]) -> None:
    """Writes the page, whose packages are loaded only now."""
    from matl_scale.report.page.page import write_page

    write_page(path, results, task_patterns)


def write_sweep_html(path: Path, results: SweepResults) -> None:
    """Writes the page of a sweep, whose packages are loaded only now."""
    from matl_scale.report.page.sweep_section import write_sweep_page

    write_sweep_page(path, results)


def search_labels(run: RunHistory, split: str | None, task_patterns: Sequence[str]) -> SuspectList:
    """Looks for labels that are likely wrong; loads SciPy's optimiser only now."""
    from matl_scale.report.suspects.search import search_run

    return search_run(run, split, task_patterns)


def main(
    arguments: Sequence[str] | None = None,
    write_page: Callable[[Path, Results, Sequence[str]], None] = write_html_page,
) -> int:
    """Runs the command and returns its exit code; `arguments` are those of the process by default.

    `write_page` writes the page of `--out`, from the file, the results, and patterns of the tasks to show.
    """
    return run_command(PROGRAM, lambda: report(build_parser().parse_args(arguments), write_page), InputError)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=PROGRAM, description=__doc__, allow_abbrev=False)
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="a run's folder, as runs/NAME")
    parser.add_argument("--sweep", type=Path, metavar="DIR", help="the folder of a sweep, instead of runs")
    parser.add_argument("--out", type=Path, metavar="FILE.html", help="write a page that opens offline")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all results, unrounded, as JSON")
    parser.add_argument(
        "--picture", type=Path, metavar="FILE.png", help="draw the variants of --sweep, as PNG or SVG (.svg)"
    )
    parser.add_argument("--markdown", type=Path, metavar="FILE.md", help="write the answer of --sweep as Markdown")
    parser.add_argument(
        "--suspects",
        type=Path,
        metavar="FILE.csv",
        help="list the labels of one RUN that are likely wrong, on --split (default: all splits with predictions but train)",
    )
    parser.add_argument(
        "--split",
        metavar="NAME",
        help="the evaluated split (default: test, else the one evaluated most often; of a sweep, the one it was planned for)",
    )
    parser.add_argument(
        "--metric",
        choices=SWEEP_METRICS,
        help=f"the metric to compare: of runs {' or '.join(PAIRED_METRICS)} (default: {PAIRED_METRICS[0]}); of a sweep any "
        f"(default: {SWEEP_METRICS[0]})",
    )
    parser.add_argument(
        "--tasks", nargs="+", action="extend", default=[], metavar="PATTERN", help="only tasks whose names match"
    )
    parser.add_argument(
        "--common-tasks",
        action="store_true",
        help="compare the tasks that all runs have with equal labels, and leave out the others",
    )
    parser.add_argument(
        "--baseline",
        choices=["single-task"],
        help="compare one RUN with the runs in the same parent folder that were trained on one of its tasks alone",
    )
    parser.add_argument(
        "--alpha",
        type=float,
        default=0.05,
        help="the false discovery rate: the share of false findings among the significant ones; for variants of a sweep, the "
        "chance of any false difference (default: %(default)s)",
    )
    parser.add_argument(
        "--min-count",
        type=int,
        metavar="N",
        help="means only over tasks with at least N samples of each class (default: the run's eval.min_count; of several runs, "
        "the largest)",
    )
    parser.add_argument("--limit", type=int, default=10, metavar="N", help="entries per list (default: %(default)s)")
    return parser


def report(options: argparse.Namespace, write_page: Callable[[Path, Results, Sequence[str]], None]) -> int:
    """Computes, prints and writes what the options ask for. Returns the exit code."""
    check_options(options)
    if options.sweep:
        return report_sweep(options, write_sweep_html)
    runs = open_runs(options.runs)
    results = compute_results(runs, choose_split(runs, options.split), options)
    if options.suspects:
        results = replace(results, suspects=search_labels(runs[0], options.split, options.tasks))
    console = build_console()
    print_results(console, results, options.limit)
    if options.json:
        write_json(options.json, results_to_json(results))
        print_line(console, f"numbers: {options.json}")
    if options.suspects and results.suspects is not None:
        write_suspects(options.suspects, results.suspects)
        print_line(console, f"suspects: {options.suspects}")
    if options.out:
        write_page(options.out, results, choose_patterns(results, options.tasks))
        print_line(console, f"page: {options.out}")
    return 0


def check_options(options: argparse.Namespace) -> None:
    """Refuses what cannot be done before any run is read."""
    if not 0 < options.alpha < 1:
        raise InputError(f"`--alpha` should be between 0 and 1, as 0.05. Got {options.alpha}.")
    if options.limit < 1:
        raise InputError(f"`--limit` should be at least 1. Got {options.limit}.")
    if options.min_count is not None and options.min_count < 0:
        raise InputError(f"`--min-count` should be at least 0. Got {options.min_count}.")
    check_kind(options)
    if options.baseline and len(options.runs) > 1:
        raise InputError(f"`--baseline` should be asked of one RUN. Got {len(options.runs)}.")
    if options.suspects and len(options.runs) > 1:
        raise InputError(f"`--suspects` should be asked of one RUN. Got {len(options.runs)}.")
    for key in ("--out", "--json", "--suspects", "--picture", "--markdown"):
        path = getattr(options, key.removeprefix("--"))
        if path is not None:
            check_writable(key, path)
    if options.out:
        require("report", "plotly", "itables", "jinja2", purpose="The page of `--out`")


def check_kind(options: argparse.Namespace) -> None:
    """Refuses options of runs for a sweep, and those of a sweep for runs."""
    if not options.sweep:
        if not options.runs:
            raise InputError("Give the folder of a RUN, as runs/NAME, or of a sweep: --sweep DIR.")
        if options.picture:
            raise InputError("`--picture` draws the variants of a sweep. Give its folder: --sweep DIR.")
        if options.markdown:
            raise InputError("`--markdown` is the answer of a sweep. Give its folder: --sweep DIR.")
        if options.metric is not None:
            check_choice("--metric", options.metric, PAIRED_METRICS)
        return
    if options.runs:
        raise InputError(
            f"`--sweep` should be given without runs. Got {shortened(options.runs)} too: ask for one of both."
        )
    for key in ("suspects", "baseline", "common_tasks"):
        if getattr(options, key):
            raise InputError(
                f"`--{key.replace('_', '-')}` is asked of runs, not of a sweep. Leave it out, or give a RUN."
            )
    if options.picture and options.picture.suffix.lower() not in KINDS:
        raise InputError(f"`--picture` should end with {' or '.join(KINDS)}. Got {options.picture}.")


def compute_results(runs: list[RunHistory], split: str, options: argparse.Namespace) -> Results:
    """Computes what is asked for."""
    question = Question(
        split=split,
        metric=options.metric or PAIRED_METRICS[0],
        alpha=options.alpha,
        patterns=options.tasks,
        common_tasks=options.common_tasks,
        min_count=max(run.min_count for run in runs) if options.min_count is None else options.min_count,
    )
    if len(runs) > 1:
        comparisons, spread = compare_runs(runs, question)
        return Results(runs=runs, split=split, min_count=question.min_count, comparisons=comparisons, spread=spread)
    facts = collect_facts(runs[0], split, options.tasks, question.min_count)
    comparisons = [compare_with_single_tasks(runs[0], question)] if options.baseline else []
    return Results(runs=runs, split=split, min_count=question.min_count, facts=facts, comparisons=comparisons)


def choose_patterns(results: Results, patterns: list[str]) -> list[str]:
    """Returns patterns of the tasks that the page shows: of several runs, the tasks that all of them have."""
    if not patterns or len(results.runs) == 1:
        return patterns
    if results.spread is not None:
        return results.spread.tasks
    return [task.task for task in results.comparisons[0].tasks]


def print_results(console: Console, results: Results, limit: int) -> None:
    if results.facts is not None:
        print_run(console, results.facts, limit)
    if results.spread is not None:
        print_spread(console, results.spread, limit)
    for number, comparison in enumerate(results.comparisons):
        if number or results.facts or results.spread:
            print_line(console, "")
        print_comparison(console, comparison, limit)
    if results.suspects is not None:
        print_line(console, "")
        print_suspects(console, results.suspects, limit)


if __name__ == "__main__":
    sys.exit(main())
