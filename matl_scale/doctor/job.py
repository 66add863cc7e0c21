"""The Slurm job: its time limit, requeueing, and whether its signals reach the run."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from matl_scale.automatic import AUTO
from matl_scale.doctor.finding import Finding
from matl_scale.runs.records import read_records
from matl_scale.train.config import Config
from matl_scale.train.health.slurm import find_interval_problem, read_job, time_left_s
from matl_scale.train.health.stop import STOP_FILE
from matl_scale.train.schedule import CHECKPOINT_EVERY_S


def check_job(config: Config, environment: Mapping[str, str] = os.environ) -> Iterator[Finding]:
    """Checks a Slurm job: its time limit against the checkpoints, whether it is requeued, how a request to stop arrives."""
    if not environment.get("SLURM_JOB_ID"):
        yield Finding("note", "slurm", "not in a Slurm job: its time limit, requeueing and signals were not checked.")
        return
    job = read_job(environment)
    if not job:
        remedy = "Add Slurm's bin folder to the PATH (launch/slurm/site.sh); job.sh needs scontrol to requeue."
        yield Finding("error", "slurm", "scontrol cannot be asked about this job.", remedy)
        return
    yield check_time_limit(config, job)
    if job.get("Requeue") != "1":
        remedy = "sbatch --requeue, or submit the same line again by hand: the run goes on."
        yield Finding("warning", "slurm", "this job is not requeued after a time limit or a preemption.", remedy)
    yield check_stop_file(environment.get(STOP_FILE))


def check_time_limit(config: Config, job: Mapping[str, str]) -> Finding:
    """Checks that a checkpoint is written before a job's time limit."""
    left_s, step_s = time_left_s(job), last_step_s(config.run.folder)
    if left_s is None:
        return Finding("ok", "slurm", "the job has no time limit.")
    if step_s is None:
        text = f"{left_s:,.0f} s until the time limit; how long a step takes is known after its first records."
        return Finding("note", "slurm", text)
    if config.checkpoint.every == AUTO:
        text = f"{left_s:,.0f} s until the time limit, a checkpoint at least every {CHECKPOINT_EVERY_S:,.0f} s."
        return Finding("ok", "slurm", text)
    every = config.checkpoint.every
    problem = find_interval_problem(every, step_s, left_s)
    if problem:
        return Finding("warning", "slurm", problem.text, problem.remedy)
    text = f"{left_s:,.0f} s until the time limit, a checkpoint every {every * step_s:,.0f} s."
    return Finding("ok", "slurm", text)


def check_stop_file(path: str | None) -> Finding:
    """Checks the file by which the job's script tells the run to stop."""
    if not path:
        remedy = "Start it with launch/slurm/train.sbatch, whose script tells the run by a file."
        text = f"{STOP_FILE} is not set: the signal before the time limit reaches no rank."
        return Finding("warning", "slurm", text, remedy)
    if not os.access(Path(path).parent, os.W_OK):
        remedy = "Submit the job from a folder that you may write."
        return Finding("error", "slurm", f"{path} cannot be written.", remedy)
    return Finding("ok", "slurm", f"a request to stop arrives through {path}.")


def last_step_s(folder: Path) -> float | None:
    """Returns the seconds per step in a run's last record of training; None if there is none."""
    times = [record["train/step_s"] for record in read_records(folder) if "train/step_s" in record]
    return float(times[-1]) if times else None
