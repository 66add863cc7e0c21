"""How lines and tables are printed. Names of runs, tasks and classes are arbitrary text, and never read as rich's markup."""

from collections.abc import Iterable, Sequence

import numpy as np
from rich.console import Console

from matl_scale.display import printable, show_name
from matl_scale.errors import shortened
from matl_scale.terminal_table import TableColumn, TerminalTable

FILE_WIDTH = 160  # columns where standard output is no terminal


def build_console() -> Console:
    """Returns a console on standard output, wide enough for every table if that is a file or a pipe."""
    console = Console()
    return console if console.is_terminal else Console(width=FILE_WIDTH)


def print_line(console: Console, text: str) -> None:
    """Prints a text as one line, however long; what a terminal would obey in it is escaped."""
    console.print(printable(text), highlight=False, markup=False, emoji=False, soft_wrap=True)


def print_remaining(console: Console, count: int, *, in_json: bool = True) -> None:
    """Says how many entries of a list were not printed, if any, and whether `--json` has them."""
    if count > 0:
        print_line(console, f"  and {count} more: --limit shows more{', --json all' if in_json else ''}")


def list_names(names: Iterable[str], limit: int = 10) -> str:
    """Joins the first `limit` names with commas, long ones cut, and says how many more there are."""
    return shortened(map(show_name, names), limit)


def build_table(first: str, *others: str, more_names: Sequence[str] = (), fold: bool = False) -> TerminalTable:
    """Returns an empty table: a column of names, more of them if `more_names` has their titles, and columns of figures. Names are
    cut if they are too long, or with `fold` broken into lines."""
    names = [TableColumn(title=title, kind="label" if fold else "name") for title in (first, *more_names)]
    return TerminalTable(columns=names + [TableColumn(title=title, kind="figure") for title in others])


def print_table(console: Console, title: str, table: TerminalTable) -> None:
    console.print(printable(title), style="italic", highlight=False, markup=False, emoji=False, soft_wrap=True)
    table.print(console)


def format_value(value: float, pattern: str = ".4f") -> str:
    """Formats a number; an undefined one is empty."""
    return "" if np.isnan(value) else format(value, pattern)
