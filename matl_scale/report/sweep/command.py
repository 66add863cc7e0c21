"""`matl-report --sweep DIR`: reads a sweep, and prints and writes its results."""

import argparse
from collections.abc import Callable
from pathlib import Path

from matl_scale.report.as_json import to_json
from matl_scale.report.sweep.compute import compute_sweep
from matl_scale.report.sweep.markdown import write_markdown
from matl_scale.report.sweep.picture import write_picture
from matl_scale.report.sweep.read import read_sweep
from matl_scale.report.sweep.results import METHOD, SweepQuestion, SweepResults
from matl_scale.report.terminal.console import build_console, print_line
from matl_scale.report.terminal.sweep import print_sweep
from matl_scale.runs.sweep_folder import SweepFolder
from matl_scale.storage.files import write_json


def report_sweep(options: argparse.Namespace, write_page: Callable[[Path, SweepResults], None]) -> int:
    """Computes, prints and writes what the options ask for. Returns the exit code."""
    runs = read_sweep(SweepFolder(options.sweep), options.split)
    question = SweepQuestion(
        metric=options.metric, alpha=options.alpha, patterns=options.tasks, min_count=options.min_count
    )
    results, console = compute_sweep(runs, question), build_console()
    print_sweep(console, results, options.limit)
    if options.json:
        write_json(options.json, to_json(results) | {"method": METHOD})
        print_line(console, f"numbers: {options.json}")
    if options.markdown:
        write_markdown(options.markdown, results)
        print_line(console, f"table: {options.markdown}")
    if options.picture:
        write_picture(options.picture, results)
        print_line(console, f"picture: {options.picture}")
    if options.out:
        write_page(options.out, results)
        print_line(console, f"page: {options.out}")
    return 0
