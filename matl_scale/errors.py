"""The two errors that a command turns into a single line. Anything else is a bug and keeps its trace."""

from collections.abc import Iterable
from difflib import get_close_matches


class InputError(ValueError):
    """Something that the user gave cannot be used. The message says what, where, and what to do."""


class RunError(RuntimeError):
    """A run cannot go on: numbers, hardware, disk or network. The message says what, where, and what to do."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """Returns " Did you mean `x`?" for the valid name closest to `name`, or an empty string."""
    matches = get_close_matches(name, list(valid), n=1)
    return f" Did you mean `{matches[0]}`?" if matches else ""


def shortened(names: Iterable[object], limit: int = 10) -> str:
    """Joins the first `limit` names with commas and says how many more there are; bytes that are no text are escaped."""
    listed = [str(name).encode("utf-8", "backslashreplace").decode() for name in names]
    rest = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return ", ".join(listed[:limit]) + rest
