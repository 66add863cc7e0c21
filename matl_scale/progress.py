"""Progress of long work on standard error: a bar on a terminal, a plain line now and then in a log."""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LOG_EVERY_S = 10.0


class Meter:
    """Shows count, rate and time left.

    Args:
        total: What `update` will reach.
        unit: Plural noun of what is counted.
    """

    def __init__(self, total: int, unit: str) -> None:
        self.total, self.unit, self.done = total, unit, 0
        self._console = Console(stderr=True)
        self._start = self._last = time.monotonic()
        self._bar: Progress | None = None
        if self._console.is_terminal:
            columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn())
            self._bar = Progress(*columns, console=self._console)
            self._task = self._bar.add_task("", total=total, rate="")

    def __enter__(self) -> "Meter":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif kind is None and self.done:
            self._print()

    def update(self, done: int) -> None:
        """Says how much is done by now."""
        self.done = done
        if self._bar is not None:
            self._bar.update(self._task, completed=done, rate=f"{self._rate():.0f} {self.unit}/s")
        elif time.monotonic() - self._last >= LOG_EVERY_S:
            self._last = time.monotonic()
            self._print()

    def _rate(self) -> float:
        return self.done / max(time.monotonic() - self._start, 1e-9)

    def _print(self) -> None:
        rate = self._rate()
        left = (self.total - self.done) / rate if rate > 0 else 0.0
        self._console.print(
            f"{self.done}/{self.total} {self.unit}, {rate:.0f} {self.unit}/s, {left:.0f} s left", highlight=False
        )


LINE_EVERY_S = 10.0


class TrainProgress:
    """Shows steps, loss, images/s, the share of time spent waiting for data, and the time left.

    Args:
        first_step: Steps done already.
        num_steps: Of the whole run.
        enabled: False on all ranks but the first.
    """

    def __init__(self, first_step: int, num_steps: int, enabled: bool) -> None:
        self.enabled, self.num_steps = enabled, num_steps
        self.console = Console(stderr=True, quiet=not enabled)
        self._start, self._first = time.monotonic(), first_step
        self._last_line = self._start
        self._bar: Progress | None = None
        if enabled and self.console.is_terminal:
            columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[text]}"), TimeRemainingColumn())
            self._bar = Progress(*columns, console=self.console)
            self._task = self._bar.add_task("", total=num_steps, completed=first_step, text="")

    def __enter__(self) -> "TrainProgress":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def step(self, step: int, loss: float, images_per_s: float, wait_share: float) -> None:
        """Shows the state after `step` steps."""
        text = f"loss {loss:.4f}  {images_per_s:,.0f} images/s  data wait {wait_share:.0%}"
        if self._bar:
            self._bar.update(self._task, completed=step, text=text)
            return
        now = time.monotonic()
        if now - self._last_line >= LINE_EVERY_S or step == self.num_steps:
            self._last_line = now
            left = (now - self._start) / max(step - self._first, 1) * (self.num_steps - step)
            self.say(f"step {step}/{self.num_steps}  {text}  {left:.0f} s left")

    def say(self, text: str) -> None:
        """Prints one line, above the bar if there is one."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)
