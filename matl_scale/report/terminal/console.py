"""How lines and tables are printed. Names of runs, tasks and classes are arbitrary text, and never read as rich's markup."""

from collections.abc import Sequence

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

FILE_WIDTH = 160  # columns where standard output is no terminal


def build_console() -> Console:
    """Returns a console on standard output, wide enough for every table if that is a file or a pipe."""
    console = Console()
    return console if console.is_terminal else Console(width=FILE_WIDTH)


def print_line(console: Console, text: str) -> None:
    """Prints a text unchanged, however long."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def print_remaining(console: Console, count: int) -> None:
    """Says how many entries of a list were not printed, if any."""
    if count > 0:
        print_line(console, f"  and {count} more: --limit shows more, --json all")


def build_table(first: str, *others: str, more_names: Sequence[str] = ()) -> Table:
    """Returns an empty table: a column of names, more of them if `more_names` has their titles, and columns of numbers."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in (first, *more_names):
        table.add_column(title, no_wrap=True, overflow="ellipsis")
    for title in others:
        table.add_column(title, justify="right")
    return table


def add_row(table: Table, name: str, *cells: str, style: str = "") -> None:
    """Adds a row that begins with a name."""
    table.add_row(*map(escape, (name, *cells)), style=style)


def print_table(console: Console, title: str, table: Table) -> None:
    console.print(title, style="italic", highlight=False, markup=False, soft_wrap=True)
    console.print(table)


def format_value(value: float, pattern: str = ".4f") -> str:
    """Formats a number; an undefined one is empty."""
    return "" if np.isnan(value) else format(value, pattern)
