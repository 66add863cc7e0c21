"""Tables of the page, short lists of tasks, and tiles, which are single numbers in large type.

report.js turns a table into a DataTable. A cell that is `None` is empty.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from matl_scale.display import show_name

MAX_NAME_WIDTH = 30
MAX_LISTED = 6  # tasks in a short list
PAGE_LENGTH = 25  # rows on a page of the table; the first page is in the HTML, for the first paint
Cell = str | float | None
Mark = Literal["", "better", "worse", "bad"]


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column."""

    title: str  # the text of its header
    digits: int | None = None  # the number of decimals; None for text
    signed: bool = False  # whether positive numbers have a plus sign
    least: float | None = None  # positive numbers below it are shown as `<least`
    hint: str = ""  # what the title means


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table that can be sorted and filtered."""

    columns: list[Column]
    rows: list[list[Cell]]  # one cell per column
    # the colour of each row's cell in a column, by the index of the column
    marks: dict[int, list[Mark]] = field(default_factory=dict)
    chosen: list[int] = field(default_factory=list)  # the indices of the rows that can be shown alone
    choice: str = ""  # the label of the check box for that; empty if there is none

    @property
    def first_rows(self) -> list[list[Cell]]:
        return self.rows[:PAGE_LENGTH]

    def mark(self, row: int, column: int) -> Mark:
        """Returns the colour of a cell."""
        return self.marks[column][row] if column in self.marks else ""

    def for_script(self) -> dict[str, Any]:
        """Returns what report.js reads."""
        return {
            "columns": [{"digits": c.digits, "signed": c.signed, "least": c.least} for c in self.columns],
            "rows": self.rows,
            "marks": self.marks,
            "chosen": self.chosen,
            "choice": self.choice,
            "pageLength": PAGE_LENGTH,
        }


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One number in large type: its label, its value, and a line of detail below."""

    label: str
    value: str
    detail: str = ""
    mark: Mark = ""


@dataclass(frozen=True, kw_only=True)
class ShortList:
    """A few tasks: of each its name, a number, and a detail; and a remark below them."""

    title: str
    rows: list[tuple[str, str, str]]
    remark: str = ""


def shorten_name(name: str) -> str:
    """Leaves out the middle of a name that is too long for an axis or a header."""
    return show_name(name, MAX_NAME_WIDTH)


def rounded(values: np.ndarray, digits: int = 3) -> list[float | None]:
    """Rounds values; an undefined one becomes None, and a negative zero becomes zero."""
    return [round(value, digits) + 0.0 if np.isfinite(value) else None for value in values.tolist()]


def format_cell(value: Cell, column: Column) -> str:
    """Formats a cell as report.js does."""
    if value is None or isinstance(value, str) or column.digits is None:
        return "" if value is None else str(value)
    if column.least is not None and 0 < value < column.least:
        return f"<{format_number(column.least, column.digits)}"
    return format_number(value, column.digits, column.signed)


def format_number(value: float | None, digits: int = 3, signed: bool = False) -> str:
    """Formats a number; an undefined one is an empty text."""
    if value is None or not np.isfinite(value):
        return ""
    value = round(value, digits) + 0.0
    return f"{value:{'+' if signed and value else ''},.{digits}f}"
