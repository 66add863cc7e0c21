"""A process that does the runs of a sweep that it is given, one after the other. It ends when the process that started it does.

    python -m matl_scale.sweep.worker FOLDER CONNECTION STARTER

CONNECTION is an open file descriptor, and STARTER the id of the process at its other end. One process does several runs,
because importing torch may take a minute.
"""

import contextlib
import ctypes
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal

from matl_scale.errors import InputError, one_line
from matl_scale.runs.sweep_folder import Outcome, PlannedRun, SweepFolder, SweepPlan
from matl_scale.storage.locks import lock_folder

# how a run ended in a worker: with an outcome, because it was asked to stop, or not at all, as another process has it
Ending = Literal["finished", "failed", "stopped", "busy"]
Work = Callable[[SweepFolder, SweepPlan, PlannedRun], Outcome | None]  # does a run; None if it was asked to stop
SET_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux's prctl


def main(arguments: Sequence[str], work: Work | None = None) -> None:
    """Does the runs whose names come in, and answers each with an `Ending`, until nobody is at the other end any more."""
    path, descriptor, starter = arguments
    end_with(int(starter))
    os.set_inheritable(int(descriptor), False)
    connection: Connection[Ending, str] = Connection(int(descriptor))
    folder = SweepFolder(Path(path))
    plan = folder.read_plan()
    runs = {run.name: run for run in plan.runs}
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            connection.send(do_run(folder, plan, runs[connection.recv()], work or train_and_evaluate))


def end_with(starter: int) -> None:
    """Lets this process be asked to stop when the one that started it ends, however it ends."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(SET_DEATH_SIGNAL, signal.SIGTERM)
    if os.getppid() != starter:
        sys.exit(1)


def do_run(folder: SweepFolder, plan: SweepPlan, run: PlannedRun, work: Work) -> Ending:
    """Does one run, unless another process does it or has done it. What it prints goes to its log.

    If it fails, that is recorded, and the other runs of the sweep go on.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(lock_folder(folder.claims, f"{run.name}.lock"))
        except InputError:
            return "busy"
        earlier = folder.read_outcome(run)
        if earlier is not None and earlier.status == "finished":
            return "finished"
        folder.forget_outcome(run)
        stack.enter_context(printing_to(folder.log_file(run)))
        try:
            return "stopped" if work(folder, plan, run) is None else "finished"
        except Exception as error:  # whatever it is, it is this run's
            traceback.print_exc()
            record_failure(folder, run, one_line(error))
            return "failed"


def train_and_evaluate(folder: SweepFolder, plan: SweepPlan, run: PlannedRun) -> Outcome | None:
    from matl_scale.sweep.run_planned import run_planned  # torch: not before this process says that it is there

    return run_planned(folder, plan, run)


def record_failure(folder: SweepFolder, run: PlannedRun, reason: str) -> None:
    """Writes the outcome of a run that has failed."""
    folder.run_folder(run).mkdir(parents=True, exist_ok=True)
    folder.write_outcome(run, Outcome(status="failed", reason=reason))


@contextlib.contextmanager
def printing_to(log: Path) -> Iterator[None]:
    """Adds all that this process and those that it starts print to a file."""
    streams = (sys.stdout, sys.stderr)
    with log.open("a", encoding="utf-8") as file:
        saved = [os.dup(number) for number in (1, 2)]
        try:
            for number in (1, 2):
                os.dup2(file.fileno(), number)
            yield
        finally:
            for stream in streams:
                stream.flush()
            for number, copy in zip((1, 2), saved, strict=True):
                os.dup2(copy, number)
                os.close(copy)


if __name__ == "__main__":
    main(sys.argv[1:])
