"""Starts and ends the process that carries a run to MLflow. Nothing here can stop or slow the training."""

import contextlib
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

from matl_scale.files import write_json
from matl_scale.tracking.local import STATUS_FILE

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


class MlflowProcess:
    """The follower of one run.

    Args:
        folder: The run's folder.
        experiment: Name of the MLflow experiment.
    """

    def __init__(self, folder: Path, experiment: str) -> None:
        self.folder = folder
        (folder / STATUS_FILE).unlink(missing_ok=True)
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

    def close(self, status: str, wait_s: float) -> None:
        """Leaves the status and waits until the copy is complete or given up, but not longer than `wait_s`."""
        with contextlib.suppress(OSError):  # a full disk: what the run has to say of it comes first
            write_json(self.folder / STATUS_FILE, {"status": status})
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=wait_s)
        except subprocess.TimeoutExpired:
            print(f"MLflow is slow; process {self._process.pid} goes on copying {self.folder}", file=sys.stderr)
