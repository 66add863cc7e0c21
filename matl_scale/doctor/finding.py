"""What a check of the doctor returns."""

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "note", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """One finding about one thing."""

    # `error`: the run would fail; `warning`: it would waste time, memory or results; `note`: worth knowing
    level: Level
    topic: str  # the part of the program or the machine that it is about
    text: str  # what was found, with figures
    remedy: str = ""  # what to do about it; empty for `ok` and for most notes

    def line(self) -> str:
        """Returns the finding as one line of text."""
        return f"{self.level}: {self.topic}: {self.text} {self.remedy}".rstrip()
