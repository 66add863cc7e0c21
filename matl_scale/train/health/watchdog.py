"""Ends a process that makes no progress, and says where it was: a rank that waits for another one forever says nothing itself."""

import contextlib
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta

import torch.distributed as dist

from matl_scale.errors import RunError, first_line

EXIT_STUCK = 1
ROLL_CALL_S = 20.0  # ranks of a busy machine notice late, and at different times


class Watchdog:
    """Watches from a thread of its own; after the first `beat` it expects one at least every `timeout_s`, or calls `leave` to end
    the process. All ranks have to build a watchdog."""

    def __init__(self, timeout_s: float, rank: int, world_size: int, leave: Callable[[int], object] = os._exit) -> None:
        self.timeout_s, self.rank, self.world_size, self.leave = timeout_s, rank, world_size, leave
        # collectives of one group block each other, and a GPU's cannot be left at all
        self._roll_call = dist.new_group(backend="gloo") if world_size > 1 else None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self.doing = "the start"
        self._since = math.inf

    def __enter__(self) -> "Watchdog":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._thread.join()
        if self._roll_call is not None:
            dist.destroy_process_group(self._roll_call)

    def beat(self, doing: str) -> None:
        """Says that this process makes progress, and with what."""
        self.doing, self._since = doing, time.monotonic()

    def pause(self) -> None:
        """Suspends the time limit until the next `beat`."""
        self._since = math.inf

    def _watch(self) -> None:
        while not self._closed.wait(min(1.0, self.timeout_s / 4)):
            if time.monotonic() - self._since > self.timeout_s:
                print(f"{self.describe()}{self._call_roll()}", file=sys.stderr, flush=True)
                self.leave(EXIT_STUCK)
                return

    def describe(self) -> str:
        return (
            f"rank {self.rank} of {self.world_size}: nothing has happened for {self.timeout_s:g} s (guard.timeout_s) in "
            f"{self.doing}. "
        )

    def _call_roll(self) -> str:
        """Finds out which ranks do not respond."""
        if self._roll_call is None:
            return "Something that this process reads or writes does not respond (file system, GPU)."
        replies: list[str] = []
        call = threading.Thread(target=lambda: replies.append(self._meet()), daemon=True)
        call.start()
        call.join(ROLL_CALL_S + 2)  # behind a cut cable the barrier waits longer than it is told to
        return replies[0] if replies else "Ranks that do not respond: 0, or the network to it."

    def _meet(self) -> str:
        try:
            dist.monitored_barrier(self._roll_call, timedelta(seconds=ROLL_CALL_S), wait_all_ranks=True)
        except Exception as error:  # whatever a broken network raises: this process is about to end
            return f"Ranks that do not respond: {first_line(error)}"
        return "All ranks respond, so one of them waits for something else (file system, GPU) or another collective."


@contextlib.contextmanager
def explain_lost_ranks(watchdog: Watchdog) -> Iterator[None]:
    """Turns the errors of collectives into a line with rank, step and route.

    Raises:
        RunError: Another rank has ended, or cannot be reached.
    """
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, RunError) or not is_lost_rank(error):
            raise
        raise RunError(
            f"rank {watchdog.rank} of {watchdog.world_size} has lost another rank in {watchdog.doing}: {first_line(error)}. The "
            "first rank that failed says why. Start the run again: it resumes from its newest checkpoint."
        ) from error


def is_lost_rank(error: RuntimeError) -> bool:
    """Returns whether a collective failed because of the network or of another rank."""
    return isinstance(error, dist.DistError) or "gloo" in str(error).lower()
