"""Tables in a terminal of any width: names give way to figures, which are never cut."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from matl_scale.display import ELLIPSIS, cut_end, printable, shorten_middle

GAP = 2  # columns of the terminal between two columns of a table
MIN_WIDTH = 12  # no longer name, or word of a title, is cut below it
GOOD_WIDTH = 24  # titles of figures are broken into lines before names are cut below it


@dataclass(frozen=True, kw_only=True)
class TableColumn:
    """A column of a table: figures are shown whole; names are cut in the middle, and notes at their end. Labels, which have to
    differ, are broken into lines instead."""

    title: str
    kind: Literal["name", "label", "figure", "note"]


@dataclass(kw_only=True)
class TerminalTable:
    """A table for a terminal, its first column of names. One that is too wide is printed in parts, each with these names."""

    columns: list[TableColumn]
    rows: list[tuple[list[str], str]] = field(default_factory=list)  # the cells, and rich's style of a row

    def add_row(self, *cells: str, style: str = "") -> None:
        """Adds a row, with a cell for each column."""
        assert len(cells) == len(self.columns)
        self.rows.append(([printable(cell) for cell in cells], style))

    def print(self, console: Console) -> None:
        """Prints the table."""
        for part in self._parts(console.width):
            console.print(self._draw(part, console.width))

    def _parts(self, width: int) -> Iterator[list[int]]:
        """Yields the indices of the columns that fit beside each other, with the first column in front."""
        least, part = [self._width(i, self._least) for i in range(len(self.columns))], [0]
        for i in range(1, len(self.columns)):
            if len(part) > 1 and sum(least[j] + GAP for j in part) + least[i] > width:
                yield part
                part = [0]
            part.append(i)
        yield part

    def _width(self, column: int, of: Callable[[int, str], int]) -> int:
        return max(of(column, cell) for cell in self._texts(column))

    def _texts(self, column: int) -> list[str]:
        return [printable(self.columns[column].title), *(cells[column] for cells, _ in self.rows)]

    def _least(self, column: int, text: str) -> int:
        """Returns the width below which a cell or a title is not shown."""
        if self.columns[column].kind != "figure":
            return min(cell_len(text), MIN_WIDTH)
        if text == printable(self.columns[column].title):  # it may be broken between words
            return min(max(map(cell_len, text.split()), default=0), MIN_WIDTH)
        return cell_len(text)

    def _draw(self, part: Sequence[int], width: int) -> Table:
        table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, GAP, 0, 0))
        widths = self._fit(part, width)
        for i in part:
            column = self.columns[i]
            justify: Literal["left", "right"] = "right" if column.kind == "figure" else "left"
            table.add_column(Text(printable(column.title)), justify=justify, width=widths[i], overflow="fold")
        for cells, style in self.rows:
            table.add_row(*(Text(self._cut(i, cells[i], widths[i])) for i in part), style=style)
        return table

    def _cut(self, column: int, cell: str, width: int) -> str:
        kind = self.columns[column].kind
        if kind == "note" and cell_len(cell) > width:
            return cut_end(cell, width - 1) + ELLIPSIS
        return shorten_middle(cell, width) if kind == "name" else cell

    def _fit(self, part: Sequence[int], width: int) -> dict[int, int]:
        """Returns a width for each column of a part: what it would like to have, less what is too much, from the widest."""
        widths = {i: self._width(i, lambda _, text: cell_len(text)) for i in part}
        least = {i: self._width(i, self._least) for i in part}
        excess = sum(widths.values()) + GAP * (len(part) - 1) - width
        texts = {i for i in part if self.columns[i].kind != "figure"}
        for givers, floor in ((texts, GOOD_WIDTH), (set(part) - texts, 0), (texts, 0)):
            while excess > 0 and (wide := [i for i in givers if widths[i] > max(least[i], floor)]):
                widths[max(wide, key=widths.__getitem__)] -= 1
                excess -= 1
        return widths
