"""Progress of long work on standard error: a bar on a terminal, a line every ten seconds in a log."""

import time
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LINE_EVERY_S = 10.0
Display = TypeVar("Display", bound="ProgressDisplay")


def format_duration(seconds: float) -> str:
    """Returns a duration for people, as `40 s`, `14 min` or `3.2 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class ProgressDisplay:
    """What the displays have in common. Work that starts at the count `done` will reach `total`, which may change; None if it is
    not known yet."""

    SEPARATOR = "  "

    def __init__(self, total: int | None, done: int = 0, enabled: bool = True) -> None:
        self.total, self.done = total, done
        self._first, self._start = done, time.monotonic()
        self._last_line = self._start
        self.console = Console(stderr=True, quiet=not enabled)
        self._bar: Progress | None = None
        if enabled and self.console.is_terminal:
            columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[text]}"), TimeRemainingColumn())
            self._bar = Progress(*columns, console=self.console)
            self._task = self._bar.add_task("", total=total, completed=done, text="")

    def __enter__(self: Display) -> Display:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def say(self, text: str) -> None:
        """Prints one line, above the bar if there is one."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _show(self, done: int, text: str) -> bool:
        """Updates the bar. Returns whether a line is due instead."""
        self.done = done
        if self._bar is not None:
            self._bar.update(self._task, total=self.total, completed=done, text=text)
            return False
        return time.monotonic() - self._last_line >= LINE_EVERY_S

    def _say_with_time_left(self, *texts: str) -> None:
        self._last_line = time.monotonic()
        num_new = self.done - self._first
        if num_new and self.total is not None:
            left_s = (self._last_line - self._start) / num_new * (self.total - self.done)
            texts = (*texts, f"{left_s:.0f} s left")
        self.say(self.SEPARATOR.join(texts))


class ItemProgress(ProgressDisplay):
    """Shows how many items are done, the rate and the time left. `unit` is a plural noun for the items."""

    SEPARATOR = ", "

    def __init__(self, total: int, unit: str, done: int = 0, enabled: bool = True) -> None:
        super().__init__(total, done, enabled)
        self.unit = unit

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        super().__exit__(kind)
        if self._bar is None and kind is None and self.done:
            self._print()

    def update(self, done: int) -> None:
        """Shows that `done` items are done by now."""
        if self._show(done, self._rate(done)):
            self._print()

    def _rate(self, done: int) -> str:
        return f"{(done - self._first) / max(time.monotonic() - self._start, 1e-9):.0f} {self.unit}/s"

    def _print(self) -> None:
        self._say_with_time_left(f"{self.done}/{self.total} {self.unit}", self._rate(self.done))


class TrainProgress(ProgressDisplay):
    """Shows steps, loss, images per second, the share of the time spent waiting for data, and the time left."""

    def step(self, step: int, loss: float, images_per_s: float, wait_share: float) -> None:
        """Shows the state after `step` steps."""
        text = f"loss {loss:.4f}  {images_per_s:,.0f} images/s  data wait {wait_share:.0%}"
        is_due = self._show(step, text)
        if is_due or (self._bar is None and step == self.total):
            self._say_with_time_left(f"step {step}" if self.total is None else f"step {step}/{self.total}", text)
