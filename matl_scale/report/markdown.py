"""Tables in Markdown, whose cells are arbitrary text."""

import re
from collections.abc import Sequence

SPECIAL = re.compile(r"[\\`*\[\]<>|~]|\b_|_\b")


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a table with a title for each column."""
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(map(escape, cells))} |" for cells in lines)


def escape(text: str) -> str:
    """Returns a text that Markdown shows as it is. An underscore inside a word is no markup."""
    return SPECIAL.sub(r"\\\g<0>", text)
