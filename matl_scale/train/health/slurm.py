"""The Slurm job that this process runs in: what Slurm says about it, and whether its time is enough for a checkpoint."""

import os
import re
import subprocess
import time
from collections.abc import Mapping
from datetime import datetime

from matl_scale.errors import Problem

REPLY_S = 10.0


def read_job(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Returns what `scontrol` says about the job, by key; empty outside a job, or if it cannot be asked."""
    job = environment.get("SLURM_JOB_ID")
    if not job:
        return {}
    # an array's own number, which its last task has too, means all of its tasks
    if (array := environment.get("SLURM_ARRAY_JOB_ID")) and (task := environment.get("SLURM_ARRAY_TASK_ID")):
        job = f"{array}_{task}"
    command = ["scontrol", "show", "job", job, "--oneliner"]
    try:
        reply = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", timeout=REPLY_S, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(re.findall(r"(\S+?)=(\S*)", reply))


def time_left_s(job: Mapping[str, str]) -> float | None:
    """Returns the seconds until a job's time limit; None if it has none."""
    try:
        return datetime.fromisoformat(job["EndTime"]).timestamp() - time.time()
    except (KeyError, ValueError):
        return None


def find_interval_problem(every: int, step_s: float, left_s: float | None) -> Problem | None:
    """Returns a problem if a job with `left_s` seconds left (None: no limit) ends before the first checkpoint is written, after
    `every` steps of `step_s` seconds."""
    if left_s is None or every * step_s <= left_s:
        return None
    return Problem(
        f"`checkpoint.every` {every} steps take {every * step_s:,.0f} s at {step_s:.3g} s a step, but the time limit leaves "
        f"{max(left_s, 0):,.0f} s: a kill without warning would lose all of it.",
        f"Set it to at most {max(1, int(left_s / step_s / 4)):,}, or ask for more time.",
    )
