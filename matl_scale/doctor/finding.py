"""What a check of the doctor returns."""

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "note", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """What was found about one part of the program or the machine, with figures, and what to do about it."""

    level: Level  # error: the run would fail; warning: it would waste time, memory or results; note: worth knowing
    topic: str
    text: str
    remedy: str = ""  # empty for `ok` and for most notes

    def line(self) -> str:
        """Returns the finding as one line of text."""
        return f"{self.level}: {self.topic}: {self.text} {self.remedy}".rstrip()
