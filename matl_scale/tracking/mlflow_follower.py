"""Carries a run's local files to MLflow, as a process of its own beside the training process.

It reads the records from where it stopped, so a server that is away costs the training nothing and is caught up
later, in order. Its standard input is a life line: when that closes, the training process has ended, and the status that
it left behind (none, if it was killed) becomes the run's.
"""

import contextlib
import json
import os
import select
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from matl_scale.files import lock_folder
from matl_scale.tracking.local import STATUS_FILE
from matl_scale.tracking.mlflow_process import GAVE_UP, prepare_process
from matl_scale.tracking.mlflow_run import MlflowRun

LOCK_FILE = ".mlflow.lock"
POLL_S = 2.0
RETRY_S = 15.0
GIVE_UP_S = 60.0  # after the training has ended


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
        return str(json.loads((folder / STATUS_FILE).read_text(encoding="utf-8"))["status"])
    return "FAILED"


def main(arguments: Sequence[str]) -> int:
    """Entry point of the process: the run's folder and the experiment."""
    prepare_process()
    folder, experiment = arguments
    # the process of an earlier start of this run may still be telling its end
    with lock_folder(Path(folder), LOCK_FILE, wait=True):
        return follow(MlflowRun(Path(folder), experiment), sys.stdin.fileno())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
