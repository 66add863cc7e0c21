"""What summaries on the page are made of: large single numbers, and short lists of tasks."""

from dataclasses import dataclass

from matl_scale.report.page.table import Mark

MAX_LISTED = 6


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One number in large type: its label, its value, and a line of detail below."""

    label: str
    value: str
    detail: str = ""
    mark: Mark = ""


@dataclass(frozen=True, kw_only=True)
class ShortList:
    """A few tasks."""

    title: str  # the text above them
    rows: list[tuple[str, str, str]]  # of each task its name, a number, and a detail
    remark: str = ""  # the text below them
