"""Opens the folder of a sweep: makes its plan, or finds that the plan that is there is the same."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from matl_scale.errors import InputError
from matl_scale.runs.sweep_folder import SWEEP_FILE, SweepFolder, SweepPlan
from matl_scale.storage.locks import lock_folder
from matl_scale.sweep.draft import SweepRequest, draft_sweep
from matl_scale.sweep.extension import check_extension
from matl_scale.sweep.machine import share_machine
from matl_scale.sweep.plan import complete_plan
from matl_scale.sweep.share import Share, confined_to

PLAN_LOCK = ".plan.lock"
START_FILE = ".started"
ARRAY = "SLURM_ARRAY_JOB_ID"


@dataclass(frozen=True, kw_only=True)
class OpenedSweep:
    """A sweep that can begin or go on."""

    folder: SweepFolder
    plan: SweepPlan
    shares: Sequence[Share]  # of the machine, one for each run at a time
    lines: Sequence[str]  # what was planned, to be printed


def open_sweep(request: SweepRequest, out: Path, parallel: int) -> OpenedSweep:
    """Plans a sweep and writes the plan, unless its folder has one already. Of several processes that do so at once, one plans.

    Args:
        request: What is wanted.
        out: The sweep's folder.
        parallel: Runs at a time; 0 lets the machine say it.

    Raises:
        InputError: The folder holds another sweep, or the sweep cannot be planned.
    """
    with lock_plan(out):
        opened = plan_sweep(request, out, parallel)
        opened.folder.write_plan(opened.plan)
    return opened


def plan_sweep(request: SweepRequest, out: Path, parallel: int) -> OpenedSweep:
    """Plans a sweep, and writes nothing. The arguments and errors are those of `open_sweep`."""
    folder = SweepFolder(out)
    earlier = folder.read_plan() if folder.plan_file.is_file() else None
    if earlier is None and out.is_dir() and (others := {path.name for path in out.iterdir()} - {PLAN_LOCK}):
        raise InputError(
            f"`--out` should be a new folder, or that of a sweep. {out} has no {SWEEP_FILE}, but {min(others)}. Choose "
            "another one."
        )
    draft = draft_sweep(request, earlier)
    if earlier is not None:
        check_extension(folder, earlier, draft)
    shares = share_machine(parallel, draft.num_runs)
    with confined_to(shares[0]):  # what is chosen by cores is chosen for those that a run will have
        plan, lines = complete_plan(draft, earlier)
    return OpenedSweep(folder=folder, plan=plan, shares=shares, lines=lines)


@contextlib.contextmanager
def lock_plan(out: Path) -> Iterator[None]:
    """Creates a sweep's folder if it does not exist, and waits for its lock. A folder that stayed empty is removed at the end."""
    out.mkdir(parents=True, exist_ok=True)
    with lock_folder(out, PLAN_LOCK, wait=True):
        try:
            yield
        finally:
            if [path.name for path in out.iterdir()] == [PLAN_LOCK]:
                (out / PLAN_LOCK).unlink()
                out.rmdir()


def mark_start(folder: SweepFolder) -> float:
    """Returns when the sweep was started, in seconds since 1970 by the clock of the file system: runs that failed before
    are tried again. All tasks of a Slurm array are one start, whenever they begin."""
    array = os.environ.get(ARRAY, "")
    file = folder.path / (f"{START_FILE}-{array}" if array else START_FILE)
    if not (array and file.exists()):
        file.touch()
    return file.stat().st_mtime
