"""Keeps a run's copy in MLflow up to date: `follow` while the run trains, `sync` afterwards.

`follow` runs in a process of its own beside the training process. It reads the run's local files from where it stopped, so
training never waits for a store that is away, and the copy is caught up later, in order. When the training process ends, its
end of a pipe to this process closes; the status that it left behind (FAILED if it was killed and left none) becomes the run's.
"""

import contextlib
import logging
import os
import select
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml

from matl_scale.errors import InputError, first_line
from matl_scale.runs.layout import CONFIG_FILE, MLFLOW_LOCK_FILE, RunFolder
from matl_scale.runs.records import read_status
from matl_scale.storage.locks import lock_folder
from matl_scale.tracking.mlflow_run import MlflowRun

POLL_S = 2.0
RETRY_S = 15.0
GIVE_UP_S = 60.0  # after the training has ended
GAVE_UP = 3  # exit code of a follower that has printed a message itself
REPLACE_OPTION = "--replace-deleted"
STOP_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGUSR2}
# a store that is away should be noticed soon: the follower tries again by itself
DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


def prepare_process() -> None:
    """Sets up this process for MLflow's client: defaults for its environment variables, and fewer log messages."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # mlflow warns that annotations or an input example are missing, whatever the filters; the signature replaces them
    logging.captureWarnings(True)
    logging.getLogger("py.warnings").setLevel(logging.ERROR)


def follow(run: MlflowRun, pipe: int) -> int:
    """Copies records while the training process holds a pipe open, and everything else once it has closed it.

    Returns the exit code: 0, or `GAVE_UP` if the store stays away after the end of the training, or refuses the copy because
    somebody deleted it.
    """
    available = True
    while not wait_for_close(pipe, POLL_S if available else RETRY_S):
        available = attempt(run, run.copy_new, quiet=not available)
    deadline = time.monotonic() + GIVE_UP_S
    while not attempt(run, lambda: copy_everything(run, read_status), quiet=not available):
        available = False
        if run.deletion:
            complain(f"{run.deletion} {how_to_sync(run.folder)} copies the rest. {how_to_replace(run.folder)}")
            return GAVE_UP
        if time.monotonic() > deadline:
            run.try_to_set_status(read_status(run.folder))
            complain(f"MLflow at {run.store} is still not available; {how_to_sync(run.folder)} copies what it lacks")
            return GAVE_UP
        time.sleep(POLL_S)
    return 0


def sync(folder: Path, uri: str | None = None, replace_deleted: bool = False) -> str:
    """Copies what MLflow lacks of a run, by default to the store of the last copy, or else to the default store.

    Returns a short description of what was done. With `replace_deleted`, a copy that was deleted gives way to a new one.

    Raises:
        InputError: It is not a run, another process is copying it, its copy was deleted, or the store cannot be reached.
    """
    config_file = RunFolder(folder).config_file
    if not config_file.is_file():
        raise InputError(f"{folder} is not a run: it has no {CONFIG_FILE}.")
    config = yaml.safe_load(config_file.read_text(encoding="utf-8"))
    with lock_folder(folder, MLFLOW_LOCK_FILE):
        run = MlflowRun(folder, config["track"]["experiment"], uri, replace_deleted=replace_deleted)
        before = run.state.get("run_id"), run.state.get("time", 0.0), run.state.get("model_id")
        try:
            status = copy_everything(run, lambda path: "RUNNING" if is_training(path) else read_status(path))
        except InputError:
            raise
        except Exception as error:  # whatever a client raises
            if deletion := run.diagnose(error):
                raise InputError(f"{deletion} {how_to_replace(folder)} {folder} keeps everything.") from error
            if not is_training(folder):
                run.try_to_set_status(read_status(folder))
            raise InputError(
                f"MLflow at {run.store} is not available: {first_line(error)}. {folder} keeps everything: start the server and "
                "call this again, or name another store with --tracking-uri."
            ) from error
    after = run.state["run_id"], run.state["time"], run.state.get("model_id")
    done = "nothing was missing" if after == before else "complete"
    return f"{done}; run {run.state['run_id']}, {status}, in {run.store}"


def copy_everything(run: MlflowRun, status_of: Callable[[Path], str]) -> str:
    """Copies records and tables, and sets the status that `status_of` the run's folder returns afterwards. Returns it."""
    run.copy_new(everything=True)
    status = status_of(run.folder)
    if status != "RUNNING":
        run.finish(status)
    return status


def attempt(run: MlflowRun, copy: Callable[[], object], quiet: bool) -> bool:
    """Tries to copy, and returns whether that succeeded. A failure is printed unless `quiet`."""
    before = run.state.get("run_id")
    try:
        copy()
    except Exception as error:  # whatever a client raises: the local files are complete, and it is tried again
        deletion = run.diagnose(error)
        if not quiet:
            problem = str(deletion or f"MLflow at {run.store} is not available ({first_line(error)}).")
            complain(f"{problem} The local files hold everything; trying again")
        run.disconnect()
        return False
    if before not in (None, run.state["run_id"]):
        complain(f"MLflow run {before} was deleted: everything is copied to a new one, {run.state['run_id']}")
    return True


def wait_for_close(pipe: int, timeout_s: float) -> bool:
    """Returns whether the other end of a pipe is closed, after at most `timeout_s`."""
    readable, _, _ = select.select([pipe], [], [], timeout_s)
    return bool(readable) and not os.read(pipe, 4096)


def is_training(folder: Path) -> bool:
    """Returns whether a process trains this run now."""
    with contextlib.suppress(InputError), lock_folder(folder):
        return False
    return True


def how_to_sync(folder: Path, *options: str) -> str:
    """Returns the shell command that copies what MLflow lacks of a run."""
    return f"`{shlex.join(['matl-sync', *options, str(folder)])}`"


def how_to_replace(folder: Path) -> str:
    """Says what can be done instead of restoring a deleted copy."""
    return f"Or copy everything to a new MLflow run: {how_to_sync(folder, REPLACE_OPTION)}."


def complain(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class MlflowProcess:
    """Starts the process that follows a run, and waits for it at the end of the training."""

    def __init__(self, folder: Path, experiment: str, replace_deleted: bool = False) -> None:
        self.folder = folder
        options = [REPLACE_OPTION] if replace_deleted else []
        command = [sys.executable, "-m", "matl_scale.tracking.mlflow_follower", str(folder), experiment, *options]
        # its thread pools would compete with the training
        environment = {**DEFAULTS, **os.environ, "OMP_NUM_THREADS": "1"}
        # a signal that stops the training must not stop the process that reports how the training ended: a process started
        # while signals are blocked never receives them
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)

    def close(self, wait_s: float) -> None:
        """Waits at most `wait_s` until the copy is complete or given up. Call it after the run has left its status."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            code = self._process.wait(timeout=wait_s)
        except subprocess.TimeoutExpired:
            complain(f"MLflow is slow; process {self._process.pid} goes on copying {self.folder}")
            return
        if code not in (0, GAVE_UP):
            complain(
                f"the process that copies to MLflow ended with {code}; {how_to_sync(self.folder)} copies what it lacks"
            )


def main(arguments: Sequence[str]) -> int:
    """Entry point of the process: the run's folder, the experiment, and whether a deleted copy gives way to a new one."""
    prepare_process()
    folder, experiment, *options = arguments
    # the follower of an earlier start of this run may still be copying
    with lock_folder(Path(folder), MLFLOW_LOCK_FILE, wait=True):
        run = MlflowRun(Path(folder), experiment, replace_deleted=REPLACE_OPTION in options)
        return follow(run, sys.stdin.fileno())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
