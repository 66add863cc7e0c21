"""Starts and ends the process that carries a run to MLflow. Nothing here can stop or slow the training."""

import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

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
