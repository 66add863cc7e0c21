"""Lets worker processes do the searches and runs of a sweep, as many at a time as the machine has shares, until all have an
outcome.

Several processes like this one may work at one sweep, on one machine or several: whoever holds the lock of a run does it.
A worker that dies takes one run with it, and another worker is started. The runs of a variant wait for the search for its
settings, if there is one.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait

from matl_scale.runs.sweep_folder import Search, SweepFolder, SweepPlan, Work
from matl_scale.sweep.share import Share, confined_to
from matl_scale.sweep.tuning.died import mark_death
from matl_scale.sweep.worker import Ending, Note, record_failure
from matl_scale.train.health.stop import STOP_FILE, TIME_LIMIT, StopRequest

LOOK_EVERY_S = 0.5
ASK_AGAIN_S = 2.0  # whether a run that another process was at has ended
WORKER = "matl_scale.sweep.worker"


@dataclass(eq=False, kw_only=True)
class Worker:
    """A worker process."""

    share: Share
    process: subprocess.Popen[bytes]
    connection: Connection
    run: Work | None = None  # what it does

    def give(self, run: Work) -> bool:
        """Returns whether the worker has got the run; False if it has died meanwhile."""
        try:
            self.connection.send(run.name)
        except OSError:
            return False
        self.run = run
        return True

    def dismiss(self) -> None:
        """Ends the worker, which does nothing or has been told to end, as soon as it finds nobody at the other end."""
        self.connection.close()
        self.process.wait()


@dataclass(kw_only=True)
class Supervisor:
    """The searches and runs of a sweep that have no outcome yet, and the workers that are at them."""

    folder: SweepFolder
    waiting: list[Work]  # to be done, in order
    since: float  # when the sweep was started, in seconds since 1970
    shares: Sequence[Share]  # one for each worker at a time
    on_end: Callable[[Work], None]  # called when a run or search has got an outcome
    on_note: Callable[[str], None] = print  # called with each line that a search has for the user
    leave_others: bool = False  # whether to end while other processes still do runs
    module: str = WORKER  # what a worker runs
    workers: list[Worker] = field(default_factory=list)
    elsewhere: dict[str, tuple[Work, float]] = field(
        default_factory=dict
    )  # runs of other processes, and when we looked
    _told: set[str] = field(default_factory=set)  # the searches of other processes that were spoken of

    def run(self, stop: StopRequest) -> bool:
        """Works until every run has an outcome. Returns False if it was asked to stop before."""
        try:
            while not stop.reason:
                self._look_elsewhere()
                self._hand_out()
                if not self.workers and not self.waiting and (self.leave_others or not self.elsewhere):
                    return True
                self._listen()
            number = signal.SIGUSR2 if stop.reason == TIME_LIMIT else signal.SIGTERM
            self._end_workers(number)
            return False
        finally:
            self._end_workers(signal.SIGKILL)  # after an error, or a second Ctrl-C

    def _hand_out(self) -> None:
        """Gives runs to workers that have none, and starts workers where there are none."""
        for worker in [worker for worker in self.workers if worker.run is None]:
            run = self._next()
            if run is not None and worker.give(run):
                self.waiting.remove(run)
            elif run is not None or not (self.waiting or (self.elsewhere and not self.leave_others)):
                worker.dismiss()
                self.workers.remove(worker)
        used = {id(worker.share) for worker in self.workers}  # with few cores, two shares may be equal
        for share in [share for share in self.shares if id(share) not in used]:
            if (run := self._next()) is not None:
                self.workers.append(self._start(share))
                if self.workers[-1].give(run):  # else it has died, and another one is started
                    self.waiting.remove(run)

    def _next(self) -> Work | None:
        """Returns what is next; None if there is nothing now. What other processes have ended meanwhile is taken off the list: a
        failure is tried once in a start, not once by each process."""
        while (work := self._find_next()) is not None and has_ended(self.folder, work, self.since):
            self.waiting.remove(work)
            self.on_end(work)
        return work

    def _find_next(self) -> Work | None:
        """Returns the next search, or the next run whose search has ended; None if there is none now."""
        elsewhere = [work for work, _ in self.elsewhere.values()]
        pending = [*self.waiting, *elsewhere, *(worker.run for worker in self.workers)]
        searched = {work.variant for work in pending if isinstance(work, Search)}
        return next((work for work in self.waiting if isinstance(work, Search) or work.variant not in searched), None)

    def _start(self, share: Share) -> Worker:
        ours, theirs = Pipe()
        command = [sys.executable, "-m", self.module, str(self.folder.path), str(theirs.fileno()), str(os.getpid())]
        with confined_to(share):
            environment = dict(os.environ)
            environment.pop(
                STOP_FILE, None
            )  # workers are told by signals: each of them would say that all have stopped
            # in a session of its own: Ctrl-C is for this process alone
            process = subprocess.Popen(command, env=environment, pass_fds=[theirs.fileno()], start_new_session=True)
        theirs.close()
        return Worker(share=share, process=process, connection=ours)

    def _listen(self) -> None:
        """Waits a moment for answers of workers, and looks which have ended."""
        if self.workers:
            wait([worker.connection for worker in self.workers], LOOK_EVERY_S)
        else:
            time.sleep(LOOK_EVERY_S)
        for worker in list(self.workers):
            if worker.connection.poll():
                self._take_answer(worker)
            elif worker.process.poll() is not None:
                self._bury(worker)

    def _take_answer(self, worker: Worker) -> None:
        try:
            answer: Ending | Note = worker.connection.recv()
        except (EOFError, ConnectionResetError):
            worker.process.wait()  # so that its exit code is known
            self._bury(worker)
            return
        if isinstance(answer, tuple):
            _, text = answer
            self.on_note(text)
            return
        run, worker.run = worker.run, None
        assert run is not None
        if answer == "busy":
            self._leave(run)
        elif answer == "stopped":  # somebody has asked this worker alone
            self.waiting.append(run)
        else:
            self.on_end(run)

    def _leave(self, run: Work) -> None:
        """Leaves a run or search to the process that is at it, and says so of a search, which others wait for."""
        if isinstance(run, Search) and run.name not in self._told:
            self._told.add(run.name)
            self.on_note(f"{self.folder.search_folder(run)}: another process searches there; its runs wait for that")
        self.elsewhere[run.name] = run, time.monotonic()

    def _bury(self, worker: Worker) -> None:
        """Records the run of a worker that has died as failed, unless it was asked to end. A search loses one trial by it."""
        self.workers.remove(worker)
        worker.connection.close()
        run, code = worker.run, worker.process.poll()
        if run is None:
            return
        if code == -signal.SIGTERM:
            self.waiting.append(run)
            return
        if isinstance(run, Search):
            mark_death(self.folder.search_folder(run), explain_death(code))
            self.waiting.insert(0, run)
            return
        record_failure(self.folder, run, explain_death(code))
        self.on_end(run)

    def _look_elsewhere(self) -> None:
        """Finds out which runs of other processes have ended; the others are asked for again, as those processes may be gone."""
        now = time.monotonic()
        for run, looked in list(self.elsewhere.values()):
            if now - looked < ASK_AGAIN_S:
                continue
            if has_ended(self.folder, run, self.since):
                self.on_end(run)
            elif self.leave_others and not isinstance(run, Search):
                continue
            else:
                self.waiting.append(run)
            del self.elsewhere[run.name]

    def _end_workers(self, number: signal.Signals) -> None:
        """Sends a signal to all workers and waits for their ends."""
        for worker in self.workers:
            worker.process.send_signal(number)
        for worker in self.workers:
            worker.dismiss()
        self.workers.clear()


def explain_death(code: int | None) -> str:
    """Says how a worker died."""
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        hint = ": too little memory, or somebody's kill" if name == "SIGKILL" else ""
        return f"its process was ended by {name}{hint}"
    return f"its process ended with exit code {code}"


def list_waiting(folder: SweepFolder, plan: SweepPlan, since: float) -> list[Work]:
    """Returns what is to be done, searches first: what has no outcome, and what failed before `since`, in seconds since 1970."""
    return [work for work in plan.work if not has_ended(folder, work, since)]


def has_ended(folder: SweepFolder, work: Work, since: float) -> bool:
    """Returns whether a run or search is finished, or has failed since a time, in seconds since 1970."""
    outcome = folder.read_ending(work)
    if outcome is None or outcome.status == "finished":
        return outcome is not None
    try:
        return folder.ended_at(work) >= since
    except FileNotFoundError:  # another process has begun to try it again
        return False
