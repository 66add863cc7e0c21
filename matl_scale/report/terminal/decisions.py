"""The decisions of a network in a terminal."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from matl_scale.decisions.table import Decisions
from matl_scale.errors import shortened
from matl_scale.metrics.names import METRIC_LABELS
from matl_scale.metrics.task_metrics import mean
from matl_scale.report.decisions import describe_notes
from matl_scale.report.terminal.console import build_table, format_value, print_line, print_table

SHOWN = ("decided_balanced_accuracy", "decided_f1", "decided_precision", "decided_recall", "decided_accuracy")


def print_decisions(console: Console, decisions: Decisions, path: Path, limit: int) -> None:
    """Prints what fitted decisions bring, over tasks, and what is to be said of single ones, at most `limit` of each kind."""
    info = decisions.info
    aims = ", ".join(decisions.distinct_aims())
    table = build_table("mean over tasks", f"on {info.split}, cross-fitted")
    for name in SHOWN:
        table.add_row(METRIC_LABELS[name], format_value(mean(decisions.measured[name])))
    for name in ("ece", "brier"):
        before, after = (format_value(mean(decisions.measured[key])) for key in (f"{name}_as_trained", name))
        table.add_row(METRIC_LABELS[name], f"{after} (as trained {before})")
    print_table(console, f"{len(decisions.rules)} tasks decided for {aims}, network of step {info.step:,}", table)
    for line in describe_notes(decisions, limit):
        print_line(console, line)
    print_line(console, f"decisions: {path}")


def print_splits(console: Console, followed: Sequence[str], others: Sequence[str]) -> None:
    """Prints which splits' recorded figures follow new decisions, and which stay."""
    if followed:
        print_line(console, f"figures that follow them now, in matl-report: {shortened(followed)}")
    if others:
        print_line(console, f"figures that stay as they were recorded: {shortened(others)}")
