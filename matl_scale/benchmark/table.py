"""Measured figures as a table in the terminal."""

import sys
from collections.abc import Sequence

import torch
from rich.console import Console
from rich.table import Table

from matl_scale.benchmark.figure import Conditions, Figure, Result
from matl_scale.device import device_name

COLUMNS = ("ratio of minima", "median", "10 % to 90 % of rounds", "minima", "numerator ÷ denominator, goal")


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
