"""What a person sees while a run goes on: a bar on a terminal, plain lines in a log."""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

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
