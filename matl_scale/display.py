"""How names, which are arbitrary text, are shown to people: without what a terminal obeys, and cut in the middle if too long.

Widths are columns of a terminal: a Chinese character takes two, a combining one none.
"""

import unicodedata

from rich.cells import cell_len

from matl_scale.text import escape_name

ELLIPSIS = "…"
MAX_LISTED_WIDTH = 60  # of a name in a line of text
# kinds of characters that move the cursor, break lines, hide or reorder text, or are no text, and two that Persian words and
# emoji are written with
HIDDEN, JOINERS = {"Cc", "Cf", "Cs", "Zl", "Zp"}, "\u200c\u200d"


def printable(text: str) -> str:
    """Returns a text with escapes in place of characters that a terminal obeys or does not show, as `\\n` or `\\x1b`."""
    return "".join(escape_hidden(each) for each in escape_name(text))


def escape_hidden(character: str) -> str:
    if unicodedata.category(character) not in HIDDEN or character in JOINERS:
        return character
    return character.encode("unicode_escape").decode("ascii")


def shorten_middle(text: str, width: int) -> str:
    """Returns a text that takes at most `width` columns, without its middle if it is longer: names often differ at their ends."""
    if cell_len(text) <= width:
        return text
    tail_width = (width - 1) // 3
    tail = cut_end(text[::-1], tail_width)[::-1]
    while tail and unicodedata.combining(tail[0]):  # it belongs to a character that is left out
        tail = tail[1:]
    return cut_end(text, width - 1 - cell_len(tail)) + ELLIPSIS + tail


def cut_end(text: str, width: int) -> str:
    """Returns the beginning of a text, as long as it takes at most `width` columns."""
    used = 0
    for i, character in enumerate(text):
        used += cell_len(character)
        if used > width:
            return text[:i]
    return text


def show_name(name: str, width: int = MAX_LISTED_WIDTH) -> str:
    """Returns a name as it is shown in a line of text."""
    return shorten_middle(printable(name), width)
