"""A process that does the searches and runs of a sweep that it is given, one after the other. It ends when the process that
started it does.

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
from matl_scale.runs.sweep_folder import Outcome, PlannedRun, Search, SearchOutcome, SweepFolder, SweepPlan, Work
from matl_scale.storage.locks import lock_folder

# how a run ended in a worker: with an outcome, because it was asked to stop, or not at all, as another process has it
Ending = Literal["finished", "failed", "stopped", "busy"]
# a line for the user, sent while work is under way; no class, as this module has another name where it is run
Note = tuple[Literal["note"], str]
# do a run and a search; None if it was asked to stop. A search says how each trial ended
DoRun = Callable[[SweepFolder, SweepPlan, PlannedRun], Outcome | None]
DoSearch = Callable[[SweepFolder, SweepPlan, Search, Callable[[str], None]], SearchOutcome | None]
SET_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux's prctl


def main(arguments: Sequence[str], do_run: DoRun | None = None, do_search: DoSearch | None = None) -> None:
    """Does the runs and searches whose names come in, and answers each with an `Ending`, until nobody is at the other end any
    more. A search sends notes before."""
    path, descriptor, starter = arguments
    end_with(int(starter))
    os.set_inheritable(int(descriptor), False)
    connection: Connection[Ending | Note, str] = Connection(int(descriptor))
    folder = SweepFolder(Path(path))

    def say(text: str) -> None:
        try:
            connection.send(("note", text))
        except OSError:
            sys.exit(1)  # nobody is there any more, and the request to stop may have come while nobody looked for it

    def do(work: Work) -> bool:
        plan = folder.read_plan()  # with the settings that searches have found meanwhile
        if isinstance(work, Search):
            return (do_search or search_settings)(folder, plan, work, say) is not None
        check_searched(folder, plan, work)
        return (do_run or train_and_evaluate)(folder, plan, work) is not None

    plan = folder.read_plan()
    by_name = {work.name: work for work in plan.work}
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            connection.send(do_work(folder, by_name[connection.recv()], do))


def end_with(starter: int) -> None:
    """Lets this process be asked to stop when the one that started it ends, however it ends."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(SET_DEATH_SIGNAL, signal.SIGTERM)
    if os.getppid() != starter:
        sys.exit(1)


def do_work(folder: SweepFolder, work: Work, do: Callable[[Work], bool]) -> Ending:
    """Does one run or search, unless another process does it or has done it. What it prints goes to its log.

    If it fails, that is recorded, and the rest of the sweep goes on. `do` returns whether it has come to its end.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(lock_folder(folder.claims, f"{work.name}.lock"))
        except InputError:
            return "busy"
        earlier = folder.read_ending(work)
        if earlier is not None and earlier.status == "finished":
            return "finished"
        folder.forget_outcome(work)
        stack.enter_context(printing_to(folder.log_file(work)))
        try:
            return "finished" if do(work) else "stopped"
        except Exception as error:  # whatever it is, it is this run's
            traceback.print_exc()
            record_failure(folder, work, one_line(error))
            return "failed"


def train_and_evaluate(folder: SweepFolder, plan: SweepPlan, run: PlannedRun) -> Outcome | None:
    from matl_scale.sweep.run_planned import run_planned  # torch: not before this process says that it is there

    return run_planned(folder, plan, run)


def search_settings(
    folder: SweepFolder, plan: SweepPlan, search: Search, say: Callable[[str], None]
) -> SearchOutcome | None:
    from matl_scale.sweep.tuning.search import run_search

    return run_search(folder, plan, search, say)


def check_searched(folder: SweepFolder, plan: SweepPlan, run: PlannedRun) -> None:
    """Raises `InputError` if the search for a run's settings has found none."""
    search = plan.search_of(run.variant)
    if search is None:
        return
    found = folder.read_search(search)
    if found is None or found.status == "failed":
        reason = "it has not ended" if found is None else found.reason
        raise InputError(
            f"the search for the settings of `{run.variant}` found none: {reason} (see {folder.log_file(search)})"
        )


def record_failure(folder: SweepFolder, work: Work, reason: str) -> None:
    """Writes the outcome of what has failed."""
    folder.folder_of(work).mkdir(parents=True, exist_ok=True)
    kind = SearchOutcome if isinstance(work, Search) else Outcome
    folder.write_outcome(work, kind(status="failed", reason=reason))


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
