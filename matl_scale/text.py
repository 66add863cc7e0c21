"""Text that every output takes: names that are no valid UTF-8, and streams that cannot show every character.

A file is opened by its real name. What is written, printed or compared with a table is the name as `escape_name` gives it.
"""

import io
import re
import sys

NOT_FROM_BYTES = re.compile("[\ud800-\udc7f\udd00-\udfff]")  # surrogates that stand for no byte
MEMORY_ADDRESS = re.compile(r" at 0x[0-9A-Fa-f]+")


def escape_name(name: str) -> str:
    r"""Returns a file name as text: its bytes as UTF-8, and `\xHH` for each byte that is none. Other names stay as they are.

    In a name that was escaped, `printf '%b'` of a shell and `bytes.decode("unicode_escape")` find the byte again.
    """
    text = NOT_FROM_BYTES.sub(lambda found: f"\\u{ord(found.group()):04x}", name)
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def count_of(number: float, noun: str, pattern: str = ",", plural: str = "") -> str:
    """Returns a number with its noun in the singular or plural, as `1 run` and `2,000 runs`, `1 pass` and `1.5 passes`.

    The number is formatted by `pattern`, and singular if it then reads as 1. `plural` is for more than a noun: `1 image is`,
    `2 images are`.
    """
    written = format(number, pattern)
    if written == "1":
        return f"{written} {noun}"
    return f"{written} {plural or noun + ('es' if noun.endswith(('s', 'x', 'ch', 'sh')) else 's')}"


def without_addresses(text: str) -> str:
    """Removes memory addresses, so that one cause always gives one text: `<_io.BytesIO object at 0x7f…>` loses its own."""
    return MEMORY_ADDRESS.sub("", text)


def prepare_streams() -> None:
    r"""Makes standard output and error write `\xd7` or `\u03c3` where their encoding lacks a character, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="backslashreplace")
