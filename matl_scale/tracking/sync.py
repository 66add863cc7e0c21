"""`matl-sync RUN`: copies to MLflow what it lacks of a run, for runs whose store was away when they ended."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from matl_scale.cli import run_command
from matl_scale.errors import InputError
from matl_scale.tracking.mlflow_follower import REPLACE_OPTION, prepare_process, sync

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
    parser.add_argument(
        REPLACE_OPTION,
        action="store_true",
        help="if the run's copy in MLflow, or its experiment, was deleted: copy everything to a new MLflow run",
    )

    def sync_runs() -> int:
        options = parser.parse_args(arguments)
        prepare_process()
        for folder in options.runs:
            print(f"{folder}: {sync(folder, options.tracking_uri, options.replace_deleted)}", flush=True)
        return 0

    return run_command(PROGRAM, sync_runs, InputError)


if __name__ == "__main__":
    sys.exit(main())
