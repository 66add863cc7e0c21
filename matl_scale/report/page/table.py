"""A table of the page: columns and rows, `None` being an empty cell. report.js hands it to DataTables."""

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

MAX_LETTERS = 30
FIRST_ROWS = 25  # are in the HTML for the first paint, and on a page of the table
Cell = str | float | None
Mark = Literal["", "better", "worse", "bad"]


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column.

    Attributes:
        title: Its head.
        digits: Behind the point; None for text.
        signed: Whether a plus is shown.
        least: Positive numbers below it are shown as `<least`.
        hint: What the head means.
    """

    title: str
    digits: int | None = None
    signed: bool = False
    least: float | None = None
    hint: str = ""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table that can be sorted and filtered.

    Attributes:
        columns: In order.
        rows: One cell per column.
        marks: Per column number, how the cell of each row is coloured.
        chosen: Numbers of the rows that can be shown alone.
        choice: What the box for that says; empty if there is none.
    """

    columns: list[Column]
    rows: list[list[Cell]]
    marks: dict[int, list[Mark]] = field(default_factory=dict)
    chosen: list[int] = field(default_factory=list)
    choice: str = ""

    @property
    def first_rows(self) -> list[list[Cell]]:
        return self.rows[:FIRST_ROWS]

    def mark(self, row: int, column: int) -> Mark:
        """Returns how a cell is coloured."""
        return self.marks[column][row] if column in self.marks else ""

    def for_script(self) -> dict[str, Any]:
        """Returns what report.js reads."""
        return {
            "columns": [{"digits": c.digits, "signed": c.signed, "least": c.least} for c in self.columns],
            "rows": self.rows,
            "marks": self.marks,
            "chosen": self.chosen,
            "choice": self.choice,
            "pageLength": FIRST_ROWS,
        }


def shorten(name: str) -> str:
    """Leaves out the middle of a name that is too long for an axis or the head of a column."""
    if len(name) <= MAX_LETTERS:
        return name
    return name[: MAX_LETTERS - 11] + "…" + name[-10:]


def rounded(values: np.ndarray, digits: int = 3) -> list[float | None]:
    """Rounds what is defined; a negative zero becomes zero."""
    return [round(value, digits) + 0.0 if np.isfinite(value) else None for value in values.tolist()]


def format_cell(value: Cell, column: Column) -> str:
    """Writes a cell as report.js does."""
    if value is None or isinstance(value, str) or column.digits is None:
        return "" if value is None else str(value)
    if column.least is not None and 0 < value < column.least:
        return f"<{format_number(column.least, column.digits)}"
    return format_number(value, column.digits, column.signed)


def format_number(value: float | None, digits: int = 3, signed: bool = False) -> str:
    """Writes a number; nothing if it is undefined."""
    if value is None or not np.isfinite(value):
        return ""
    value = round(value, digits) + 0.0
    return f"{value:{'+' if signed and value else ''},.{digits}f}"
