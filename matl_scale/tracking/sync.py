"""`matl-sync RUN`: copies to MLflow what it lacks of a run, for runs whose store was away when they ended."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from matl_scale.cli import explain_as_input_error, run_command
from matl_scale.tracking.mlflow_follower import prepare_process, sync

PROGRAM = "matl-sync"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog=PROGRAM, description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run's folder, as runs/NAME")
    parser.add_argument(
        "--tracking-uri",
        metavar="URI",
        help="the store to copy to; a run that it does not have yet is created there (default: the run's own store, "
        "else MLFLOW_TRACKING_URI, else mlflow.db beside the runs)",
    )
    options = parser.parse_args(arguments)
    return run_command(PROGRAM, lambda: sync_runs(options.runs, options.tracking_uri), explain_as_input_error)


def sync_runs(folders: Sequence[Path], uri: str | None) -> int:
    """Copies runs, a line of output each. Returns the exit code."""
    prepare_process()
    for folder in folders:
        print(f"{folder}: {sync(folder, uri)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
