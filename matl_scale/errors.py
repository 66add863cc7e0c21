"""The two errors that a command turns into a single line. Anything else is a bug and keeps its trace."""

import errno
import math
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from matl_scale.automatic import AUTO, Auto
from matl_scale.text import escape_name, without_addresses

REMEDIES = {
    errno.ENOSPC: "Free some space, then start again.",
    errno.EDQUOT: "Free some of your quota, then start again.",
    errno.EROFS: "Choose a folder that can be written.",
    errno.EIO: "The disk or the network file system fails; look at the system's log.",
    errno.ESTALE: "The network file system was mounted anew; start again.",
    errno.EMFILE: "Raise the limit on open files (ulimit -n), or use fewer workers.",
    errno.ENFILE: "The machine has too many files open; end some other processes.",
}
PATH_REMEDIES = {  # of errors that say something only if they name a path
    errno.ENOENT: "Check the path; nothing of that name is there now.",
    errno.ENOTDIR: "Check the path: it leads through a file as if that were a folder.",
    errno.EISDIR: "Give the path of a file; this is a folder.",
    errno.ENAMETOOLONG: "Choose a shorter name.",
    errno.ELOOP: "Correct the links of the path, which lead in a circle.",
}
MAY_NOT_READ = "Choose one that you may read, or change its permissions."
MAY_NOT_WRITE = "Choose a folder that you may write, or change its permissions."


class InputError(ValueError):
    """Something that the user gave cannot be used. The message says what, where, and what to do."""


class NarrowLayerError(InputError):
    """A layer has too few units for what was asked. `widening` is how many times as many would do."""

    def __init__(self, message: str, widening: float) -> None:
        super().__init__(message)
        self.widening = widening


class RunError(RuntimeError):
    """A run has to end: numbers, hardware, disk or network. The message says what, where, and what to do."""


@dataclass(frozen=True)
class Problem:
    """Something that is wrong, and what to do about it; as a text, both in one line."""

    text: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.text} {self.remedy}"


def check_at_least(minimum: float, values: Mapping[str, float | Auto]) -> None:
    """Raises `InputError` for the first config key whose value is a number below `minimum` or not finite."""
    for key, value in values.items():
        if value != AUTO and not minimum <= value < math.inf:
            raise InputError(f"`{key}` should be at least {minimum}. Got {value}.")


def check_choice(key: str, value: str, choices: Sequence[str]) -> None:
    """Raises `InputError` if the value of a config key is not one of the valid choices."""
    if value not in choices:
        raise InputError(f"`{key}` should be one of {', '.join(choices)}. Got {value!r}." + nearest(value, choices))


def first_line(error: BaseException) -> str:
    """Returns the first line of an error's text, or the name of its type if it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def one_line(error: Exception) -> str:
    """Returns an error's text as one line of at most 300 characters, to be quoted in another message; its kind if it has none."""
    return without_addresses(" ".join(str(error).split()))[:300] or type(error).__name__


def nearest(name: str, valid: Iterable[str]) -> str:
    """Returns " Did you mean `x`?" for the valid name closest to `name`, or an empty string."""
    matches = get_close_matches(name, list(valid), n=1)
    return f" Did you mean `{matches[0]}`?" if matches else ""


def shortened(names: Iterable[object], limit: int = 10, total: int | None = None) -> str:
    """Joins the first `limit` names with commas and says how many more there are; bytes that are no text are escaped. `total` is
    the number of names where not all are given."""
    listed = [escape_name(str(name)) for name in names]
    total = len(listed) if total is None else total
    rest = f" and {total - limit:,} more" if total > limit else ""
    return ", ".join(listed[:limit]) + rest


def check_writable(option: str, path: Path) -> None:
    """Raises `InputError` if a file that `option` asks for, as `--out`, cannot be written; called before the work for it."""
    folder = path.parent
    try:
        if path.is_dir():
            raise InputError(f"`{option}` should be a file. {path} is a folder.")
        if not folder.is_dir():
            raise InputError(f"`{option}` {path} cannot be written: there is no folder {folder}. Make it first.")
        with tempfile.NamedTemporaryFile(dir=folder, prefix=f".partial-{path.name}-"):
            pass
    except OSError as error:
        raise InputError(
            f"`{option}` {path} cannot be written: {reason_of(error, 'Choose another folder.')}"
        ) from error


def explain_os_error(error: OSError) -> str | None:
    """Returns what is wrong with a disk, a path or a permission, and what to do; None for errors of any other kind."""
    remedy = remedy_of(error)
    if remedy is None:
        return None
    path = path_of(error)
    prefix = f"{escape_name(path)}: " if path is not None else ""
    return f"{prefix}{error.strerror}. {remedy}"


def reason_of(error: OSError, otherwise: str) -> str:
    """Returns an error without its path, and what to do about it: `otherwise` where nothing general can be said."""
    return f"{error.strerror or without_addresses(str(error))}. {remedy_of(error) or otherwise}"


def remedy_of(error: OSError) -> str | None:
    """Returns what to do about an error of the operating system; None where nothing general can be said."""
    number, path = error.errno or 0, path_of(error)
    if number in (errno.EACCES, errno.EPERM):
        return MAY_NOT_READ if path is not None and is_unreadable(Path(path)) else MAY_NOT_WRITE
    if path is not None and number in PATH_REMEDIES:
        return PATH_REMEDIES[number]
    return REMEDIES.get(number)


def path_of(error: OSError) -> str | None:
    """Returns the path that an error names; None if it names none, or an open file by its number."""
    return None if error.filename is None or isinstance(error.filename, int) else os.fsdecode(error.filename)


def is_unreadable(path: Path) -> bool:
    """Returns whether this process may not read a file, list a folder, or enter the folders above one."""
    path = path.absolute()
    if os.path.lexists(path):
        return not os.access(path, os.R_OK | (os.X_OK if path.is_dir() else 0))
    return any(not os.access(folder, os.X_OK) for folder in path.parents if os.path.lexists(folder))
