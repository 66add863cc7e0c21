"""A mark that the process which searched has died: the trial that it was at is not tried again, the others go on.

A process that was asked to end, or that ended with all others, leaves no mark: its trial goes on.
"""

from pathlib import Path

DIED_FILE = "died.txt"


def mark_death(folder: Path, reason: str) -> None:
    """Marks in a search's folder how its process has died."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / DIED_FILE).write_text(reason, encoding="utf-8")


def read_death(folder: Path) -> str:
    """Returns how the process of a search has died; empty if it has not."""
    file = folder / DIED_FILE
    return file.read_text(encoding="utf-8") if file.is_file() else ""


def forget_death(folder: Path) -> None:
    (folder / DIED_FILE).unlink(missing_ok=True)
