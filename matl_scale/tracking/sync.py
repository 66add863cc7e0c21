"""`matl-sync RUN`: copies to MLflow what it lacks of a run, for runs whose store was away when they ended."""

import argparse
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from matl_scale.errors import InputError, explain_os_error
from matl_scale.runs.layout import CONFIG_FILE, MLFLOW_LOCK_FILE, RunFolder
from matl_scale.storage.locks import lock_folder
from matl_scale.tracking.mlflow_follower import prepare_process, read_status
from matl_scale.tracking.mlflow_run import MlflowRun

PROGRAM = "matl-sync"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog=PROGRAM, description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run's folder, as runs/NAME")
    parser.add_argument(
        "--tracking-uri",
        metavar="URI",
        help="another store than the one the run was copied to; it gets a run of its own (default: the run's own store, "
        "else MLFLOW_TRACKING_URI, else mlflow.db beside the runs)",
    )
    options = parser.parse_args(arguments)
    prepare_process()
    try:
        for folder in options.runs:
            print(f"{folder}: {sync(folder, options.tracking_uri)}", flush=True)
    except InputError as error:
        print(f"{PROGRAM}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except OSError as error:
        text = explain_os_error(error)
        if text is None:
            raise
        print(f"{PROGRAM}: error: {text}", file=sys.stderr)
        return 2
    return 0


def sync(folder: Path, uri: str | None = None) -> str:
    """Copies what is missing, in order and once. Returns in a few words what was done.

    Raises:
        InputError: It is not a run, it is being copied already, or the store cannot be reached.
    """
    if not RunFolder(folder).config_file.is_file():
        raise InputError(f"{folder} is not a run: it has no {CONFIG_FILE}.")
    config = yaml.safe_load(RunFolder(folder).config_file.read_text(encoding="utf-8"))
    with lock_folder(folder, MLFLOW_LOCK_FILE):
        run = MlflowRun(folder, config["track"]["experiment"], uri)
        before = run.state.get("time", 0.0)
        try:
            run.copy_new(everything=True)
            status = "RUNNING" if is_training(folder) else read_status(folder)
            if status != "RUNNING":
                run.finish(status)
        except InputError:
            raise
        except Exception as error:  # whatever a client raises
            if not is_training(folder):
                run.end(read_status(folder))
            reason = str(error).strip().split("\n")[0]
            raise InputError(
                f"MLflow at {run.place} is not available: {reason}. {folder} keeps everything: start the server and call this "
                "again, or name another store with --tracking-uri."
            ) from error
    what = "nothing was missing" if run.state["time"] == before else "complete"
    return f"{what}; run {run.state['run_id']}, {status}, in {run.place}"


def is_training(folder: Path) -> bool:
    """Returns whether a process trains this run now."""
    with contextlib.suppress(InputError), lock_folder(folder):
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
