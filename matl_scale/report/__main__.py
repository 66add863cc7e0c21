"""matl-report: how good a run is task by task, how runs differ beyond the noise of the test samples, and a page to send.

One RUN is summed up. Two are compared task by task. Several of one config, as seeds, show their spread; runs of several
configs are compared group against group, each with the first.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from matl_scale.errors import InputError, check_writable, explain_os_error
from matl_scale.extras import require
from matl_scale.report.as_json import plain, plain_comparison, plain_spread
from matl_scale.report.comparison.results import METRICS, Comparison, SeedSpread
from matl_scale.report.comparison.runs import Question, choose_split, compare_runs, open_runs
from matl_scale.report.comparison.single_task_baseline import compare_with_single_tasks
from matl_scale.report.facts import RunFacts, collect_facts
from matl_scale.report.single_run import choose_tasks, describe_run
from matl_scale.report.terminal import build_console, print_comparison, print_run, print_spread, say
from matl_scale.runs.history import RunHistory
from matl_scale.storage.files import write_json

PROGRAM = "matl-report"


@dataclass(kw_only=True)
class Results:
    """What is printed, and written as JSON and as a page."""

    runs: list[RunHistory]
    split: str
    facts: RunFacts | None = None
    rows: list[int] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    spread: SeedSpread | None = None


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, or 2 after one line that says what was wrong with the input."""
    options = build_parser().parse_args(arguments)
    try:
        report(options)
    except InputError as error:
        return fail(str(error))
    except OSError as error:
        text = explain_os_error(error)
        if text is None:
            raise
        return fail(text)
    return 0


def fail(text: str) -> int:
    print(f"{PROGRAM}: error: {' '.join(text.split())}", file=sys.stderr)
    return 2


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=PROGRAM, description=__doc__, allow_abbrev=False)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run's folder, as runs/NAME")
    parser.add_argument("--out", type=Path, metavar="FILE.html", help="write a page that opens offline")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything, unrounded, as JSON")
    parser.add_argument("--split", metavar="NAME", help="what was evaluated (default: test, else the most evaluated)")
    parser.add_argument("--metric", choices=METRICS, default=METRICS[0], help="what is compared (default: %(default)s)")
    parser.add_argument(
        "--tasks", nargs="+", action="extend", default=[], metavar="PATTERN", help="name patterns; only these tasks"
    )
    parser.add_argument(
        "--common-tasks",
        action="store_true",
        help="compare the tasks that all runs have with equal labels, leave out others",
    )
    parser.add_argument(
        "--baseline", choices=["single-task"], help="compare one RUN with the runs beside it that have one task only"
    )
    parser.add_argument(
        "--alpha",
        type=float,
        default=0.05,
        help="share of false findings among the significant ones (default: %(default)s)",
    )
    parser.add_argument("--limit", type=int, default=10, metavar="N", help="rows per list (default: %(default)s)")
    return parser


def report(options: argparse.Namespace) -> None:
    """Does what the options ask for."""
    check_options(options)
    if options.out:
        require("report", "plotly", "itables", "jinja2", purpose="The page of `--out`")
    runs = open_runs(options.runs)
    results = examine(runs, choose_split(runs, options.split), options)
    console = build_console()
    print_results(console, results, options.limit)
    if options.json:
        write_json(options.json, describe(results))
        say(console, f"numbers: {options.json}")
    if options.out:
        from matl_scale.report.page.page import write_page

        write_page(
            options.out, runs, results.split, results.comparisons, results.spread, shown_tasks(results, options.tasks)
        )
        say(console, f"page: {options.out}")


def check_options(options: argparse.Namespace) -> None:
    """Refuses what cannot be done before anything is read."""
    if not 0 < options.alpha < 1:
        raise InputError(f"`--alpha` should be between 0 and 1, as 0.05. Got {options.alpha}.")
    if options.limit < 1:
        raise InputError(f"`--limit` should be at least 1. Got {options.limit}.")
    if options.baseline and len(options.runs) > 1:
        raise InputError(f"`--baseline` should be asked of one RUN. Got {len(options.runs)}.")
    for key, path in (("--out", options.out), ("--json", options.json)):
        if path is not None:
            check_writable(key, path)


def shown_tasks(results: Results, patterns: list[str]) -> list[str]:
    """Returns what the page shows of each run: of several, the tasks that were compared, which all of them have."""
    if not patterns or len(results.runs) == 1:
        return patterns
    if results.spread is not None:
        return results.spread.tasks
    return [task.task for task in results.comparisons[0].tasks]


def examine(runs: list[RunHistory], split: str, options: argparse.Namespace) -> Results:
    """Measures what is asked for."""
    results = Results(runs=runs, split=split)
    if len(runs) > 1:
        question = Question(
            split=split,
            metric=options.metric,
            alpha=options.alpha,
            patterns=options.tasks,
            common_tasks=options.common_tasks,
        )
        results.comparisons, results.spread = compare_runs(runs, question)
        return results
    results.facts = collect_facts(runs[0], split)
    results.rows = choose_tasks(results.facts, options.tasks)
    if options.baseline:
        results.comparisons = [compare_with_single_tasks(runs[0], split, options.tasks, options.metric, options.alpha)]
    return results


def print_results(console: Console, results: Results, limit: int) -> None:
    if results.facts is not None:
        print_run(console, results.facts, results.rows, limit)
    if results.spread is not None:
        print_spread(console, results.spread, limit)
    for number, comparison in enumerate(results.comparisons):
        if number or results.facts or results.spread:
            say(console, "")
        print_comparison(console, comparison, limit)


def describe(results: Results) -> dict[str, object]:
    """Returns all results as JSON knows them."""
    return {
        "runs": [f"{run.folder}" for run in results.runs],
        "split": results.split,
        "run": None if results.facts is None else plain(describe_run(results.facts, results.rows)),
        "comparisons": [plain_comparison(comparison) for comparison in results.comparisons],
        "spread": None if results.spread is None else plain_spread(results.spread),
    }


if __name__ == "__main__":
    sys.exit(main())
