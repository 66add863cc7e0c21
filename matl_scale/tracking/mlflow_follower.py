"""Carries a run's local files to MLflow, as a process of its own beside the training process.

It reads the records from where it stopped, so a server that is away costs the training nothing and is caught up
later, in order. Its standard input is a life line: when that closes, the training process has ended, and the status that
it left behind (none, if it was killed) becomes the run's.
"""

import contextlib
import json
import logging
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from matl_scale.runs.layout import MLFLOW_LOCK_FILE, RunFolder
from matl_scale.storage.locks import lock_folder
from matl_scale.tracking.mlflow_run import MlflowRun

POLL_S = 2.0
RETRY_S = 15.0
GIVE_UP_S = 60.0  # after the training has ended


GAVE_UP = 3  # exit code of a follower that has said so itself


LEFT_TO_THE_RUN = {signal.SIGINT, signal.SIGTERM, signal.SIGUSR2}


# a server that is away should be noticed soon: trying again is the follower's business
DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


def prepare_process() -> None:
    """Prepares this process for MLflow's client: its environment, where that does not say otherwise, and what it prints."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # mlflow recommends annotations and input examples, whatever filters say; a signature says all there is to say
    logging.captureWarnings(True)
    logging.getLogger("py.warnings").setLevel(logging.ERROR)


def follow(run: MlflowRun, life_line: int) -> int:
    """Copies until the training process is gone and everything is there. Returns the exit code."""
    retry_at = 0.0
    complained = False
    ended_at: float | None = None
    while True:
        if ended_at is None and select.select([life_line], [], [], POLL_S)[0] and not os.read(life_line, 4096):
            ended_at = time.monotonic()
        if time.monotonic() >= retry_at or ended_at is not None:
            try:
                run.copy_new(everything=ended_at is not None)
                complained = False
                if ended_at is not None:
                    run.finish(read_status(run.folder))
                    return 0
            except Exception as error:  # whatever a client raises: the local files stay, and it is tried again
                if not complained:
                    reason = str(error).strip().split("\n")[0]
                    print(f"MLflow at {run.place} is not available ({reason}); the local files hold everything, "
                          "trying again", file=sys.stderr, flush=True)  # fmt: skip
                complained, retry_at = True, time.monotonic() + RETRY_S
                run.disconnect()
        if ended_at is not None:
            if time.monotonic() - ended_at > GIVE_UP_S:
                run.end(read_status(run.folder))
                print(f"MLflow at {run.place} is still not available; `matl-sync {run.folder}` copies what it lacks",
                      file=sys.stderr, flush=True)  # fmt: skip
                return GAVE_UP
            time.sleep(POLL_S)


def read_status(folder: Path) -> str:
    """Returns the status that the training process left; FAILED if it was killed before it could."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        return str(json.loads(RunFolder(folder).status_file.read_text(encoding="utf-8"))["status"])
    return "FAILED"


def main(arguments: Sequence[str]) -> int:
    """Entry point of the process: the run's folder and the experiment."""
    prepare_process()
    folder, experiment = arguments
    # the process of an earlier start of this run may still be telling its end
    with lock_folder(Path(folder), MLFLOW_LOCK_FILE, wait=True):
        return follow(MlflowRun(Path(folder), experiment), sys.stdin.fileno())


class MlflowProcess:
    """The follower of one run.

    Args:
        folder: The run's folder.
        experiment: Name of the MLflow experiment.
    """

    def __init__(self, folder: Path, experiment: str) -> None:
        self.folder = folder
        command = [sys.executable, "-m", "matl_scale.tracking.mlflow_follower", str(folder), experiment]
        # its thread pools would compete with the training
        environment = {**DEFAULTS, **os.environ, "OMP_NUM_THREADS": "1"}
        # what asks the training process to end must not end the one that tells how it ended: a process that is started
        # while signals are blocked never gets them
        signal.pthread_sigmask(signal.SIG_BLOCK, LEFT_TO_THE_RUN)
        try:
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, LEFT_TO_THE_RUN)

    def close(self, wait_s: float) -> None:
        """Waits until the copy is complete or given up, but not longer than `wait_s`; the run has left its status."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            code = self._process.wait(timeout=wait_s)
            if code not in (0, GAVE_UP):
                print(
                    f"the process that copies to MLflow ended with {code}; `matl-sync {self.folder}` copies what it lacks",
                    file=sys.stderr,
                )
        except subprocess.TimeoutExpired:
            print(f"MLflow is slow; process {self._process.pid} goes on copying {self.folder}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
