"""A request to stop the run: a signal or a file leaves a mark, and the loop looks for it at every step.

Nothing is saved in a handler. The first rank that sees the request tells the others in the collective of the current step, so
that all end after the same step, write one checkpoint, and leave with one exit code.
"""

import os
import signal
import threading
import time
from pathlib import Path
from types import FrameType, TracebackType

STOP_FILE = "MATL_STOP_FILE"  # environment variable: a file whose existence requests a stop; its content is the reason
EXIT_STOPPED = 75  # EX_TEMPFAIL of sysexits.h: not finished, start it again
SIGNALS = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)
TIME_LIMIT = signal.SIGUSR2.name
FILE_EVERY_S = 1.0
SECOND_CTRL_C_S = 2.0  # a launcher passes Ctrl-C on to ranks that the terminal has told already


class StopRequest:
    """Takes the signals TERM, USR2 and INT while it is entered, and looks for the file that `MATL_STOP_FILE` names.

    A second Ctrl-C ends the process at once.
    """

    def __init__(self) -> None:
        name = os.environ.get(STOP_FILE)
        self._file = Path(name) if name else None
        self._reason = ""
        self._looked_at = -FILE_EVERY_S
        self._interrupted_at: float | None = None
        self._handlers: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            self._handlers = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, _: FrameType | None) -> None:
        now = time.monotonic()
        if number == signal.SIGINT:
            if self._interrupted_at is not None and now - self._interrupted_at > SECOND_CTRL_C_S:
                raise KeyboardInterrupt
            self._interrupted_at = self._interrupted_at or now
        self._reason = self._reason or signal.Signals(number).name

    @property
    def reason(self) -> str:
        """Why this rank should stop: the name of a signal or the file's content; empty if it should not."""
        now = time.monotonic()
        if not self._reason and now - self._looked_at >= FILE_EVERY_S:
            self._looked_at = now
            self._look()
        return self._reason

    def _look(self) -> None:
        if self._file is not None and self._file.exists():
            self._reason = self._file.read_text(encoding="utf-8", errors="replace").strip() or str(self._file)

    def explain(self) -> str:
        """Returns why all ranks stop, after any of them was asked to."""
        if not self._reason:
            self._look()
        return self._reason or "another rank was asked to"

    @property
    def status(self) -> str:
        """What a stopped run is in MLflow's words: `SCHEDULED` if its job will be started again by itself, else `KILLED`."""
        return "SCHEDULED" if self._reason == TIME_LIMIT else "KILLED"

    def confirm(self, step: int) -> None:
        """Tells who left the file that the run has stopped, with a complete checkpoint."""
        if self._file is not None:
            self._file.with_name(f"{self._file.name}.stopped").write_text(f"step {step}\n", encoding="utf-8")


def exit_code_of_stop() -> int:
    """Returns the exit code of a rank that stopped when asked to.

    0 below torchrun, which treats anything else as a failure: it would report it, or start the ranks again.
    """
    return 0 if "TORCHELASTIC_RUN_ID" in os.environ else EXIT_STOPPED
