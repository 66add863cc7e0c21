"""Progress of long work: a bar on a terminal, a plain line now and then in a log."""

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Item = TypeVar("Item")
LOG_EVERY_S = 10.0


def track(items: Iterable[Item], total: int, unit: str) -> Iterator[Item]:
    """Passes `items` on and shows count, rate and time left on standard error."""
    console = Console(stderr=True)
    if console.is_terminal:
        yield from _track_bar(items, total, unit, console)
    else:
        yield from _track_lines(items, total, unit, console)


def _track_bar(items: Iterable[Item], total: int, unit: str, console: Console) -> Iterator[Item]:
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("", total=total, rate="")
        start = time.monotonic()
        for done, item in enumerate(items, start=1):
            yield item
            progress.update(bar, completed=done, rate=f"{done / (time.monotonic() - start):.0f} {unit}/s")


def _track_lines(items: Iterable[Item], total: int, unit: str, console: Console) -> Iterator[Item]:
    start = last = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last >= LOG_EVERY_S or done == total:
            rate = done / max(now - start, 1e-9)
            console.print(
                f"{done}/{total} {unit}, {rate:.0f} {unit}/s, {(total - done) / rate:.0f} s left", highlight=False
            )
            last = now
