"""Lets worker processes do the runs of a sweep, as many at a time as the machine has shares for, until all have an outcome.

Several processes like this one may work at one sweep, on one machine or several: whoever holds the lock of a run does it.
A worker that dies takes one run with it, and another worker is started.
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

from matl_scale.runs.sweep_folder import PlannedRun, SweepFolder, SweepPlan
from matl_scale.sweep.share import Share, confined_to
from matl_scale.sweep.worker import Ending, record_failure
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
    run: PlannedRun | None = None  # what it does

    def give(self, run: PlannedRun) -> bool:
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
    """The runs of a sweep that have no outcome yet, and the workers that are at them."""

    folder: SweepFolder
    waiting: list[PlannedRun]  # to be done, in order
    since: float  # when the sweep was started, in seconds since 1970
    shares: Sequence[Share]  # one for each worker at a time
    on_end: Callable[[PlannedRun], None]  # called when a run has got an outcome
    leave_others: bool = False  # whether to end while other processes still do runs
    module: str = WORKER  # what a worker runs
    workers: list[Worker] = field(default_factory=list)
    elsewhere: dict[str, tuple[PlannedRun, float]] = field(
        default_factory=dict
    )  # runs of other processes, and when we looked

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
            if self.waiting and worker.give(self.waiting[0]):
                self.waiting.pop(0)
            elif self.waiting or not self.elsewhere or self.leave_others:
                worker.dismiss()
                self.workers.remove(worker)
        used = [worker.share for worker in self.workers]
        for share in [share for share in self.shares if share not in used]:
            if self.waiting:
                self.workers.append(self._start(share))
                self.workers[-1].give(self.waiting.pop(0))

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
            ending: Ending = worker.connection.recv()
        except (EOFError, ConnectionResetError):
            worker.process.wait()  # so that its exit code is known
            self._bury(worker)
            return
        run, worker.run = worker.run, None
        assert run is not None
        if ending == "busy":
            self.elsewhere[run.name] = run, time.monotonic()
        elif ending == "stopped":  # somebody has asked this worker alone
            self.waiting.append(run)
        else:
            self.on_end(run)

    def _bury(self, worker: Worker) -> None:
        """Records the run of a worker that has died as failed, unless it was asked to end."""
        self.workers.remove(worker)
        worker.connection.close()
        run, code = worker.run, worker.process.poll()
        if run is None:
            return
        if code == -signal.SIGTERM:
            self.waiting.append(run)
            return
        record_failure(self.folder, run, explain_death(code))
        self.on_end(run)

    def _look_elsewhere(self) -> None:
        """Finds out which runs of other processes have ended; the others are asked for again, as those processes may be gone."""
        now = time.monotonic()
        for run, looked in list(self.elsewhere.values()):
            if now - looked < ASK_AGAIN_S:
                continue
            outcome = self.folder.read_outcome(run)
            if outcome is not None and (outcome.status == "finished" or self.folder.ended_at(run) >= self.since):
                self.on_end(run)
            elif self.leave_others:
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


def list_waiting(folder: SweepFolder, plan: SweepPlan, since: float) -> list[PlannedRun]:
    """Returns the runs to be done: those without an outcome, and those that failed before `since`, in seconds since 1970."""
    waiting = []
    for run in plan.runs:
        outcome = folder.read_outcome(run)
        if outcome is None or (outcome.status == "failed" and folder.ended_at(run) < since):
            waiting.append(run)
    return waiting
