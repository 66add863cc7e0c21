"""The machine and the job: ports, processors, time limit, the way a signal takes, versions."""

import json
import os
import re
import socket
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path

import torch

from matl_scale.doctor.finding import Finding
from matl_scale.runs.layout import RunFolder
from matl_scale.train.config import Config
from matl_scale.train.health.slurm import describe_interval, read_job, time_left_s
from matl_scale.train.health.stop import STOP_FILE

DEFAULT_PORT = 29500
PAIRED = "torchvision", "torch"


def check_processors(
    config: Config, ranks_per_node: int, environment: Mapping[str, str] = os.environ
) -> Iterator[Finding]:
    """Checks the processors of this node against what ranks and loader processes need."""
    offered = environment.get("SLURM_CPUS_ON_NODE")
    has = min(int(offered), len(os.sched_getaffinity(0))) if offered else len(os.sched_getaffinity(0))
    needed = ranks_per_node * (1 + config.data.workers)
    text = f"{needed} processes on {has} CPUs of this node ({ranks_per_node} ranks × 1 + {config.data.workers} workers)"
    if needed > has:
        remedy = "Lower `data.workers`" + (f", or sbatch --cpus-per-task={needed}." if offered else ".")
        yield Finding("warning", "processors", f"{text}: they will wait for each other.", remedy)
    else:
        yield Finding("ok", "processors", f"{text}.")


def check_port(environment: Mapping[str, str] = os.environ) -> Iterator[Finding]:
    """Checks that the port by which ranks find each other is free. Not for a rank, whose own launcher uses it."""
    port = int(environment.get("MASTER_JOB_PORT") or environment.get("MASTER_PORT") or DEFAULT_PORT)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            remedy = "Another run is on this machine: give accelerate launch another --main_process_port."
            yield Finding("warning", "port", f"port {port} cannot be used ({error.strerror}).", remedy)
        else:
            yield Finding("ok", "port", f"port {port} is free.")


def check_job(config: Config, environment: Mapping[str, str] = os.environ) -> Iterator[Finding]:
    """Checks a Slurm job: its time limit against the checkpoints, whether it is requeued, how a wish to stop arrives."""
    if not environment.get("SLURM_JOB_ID"):
        yield Finding(
            "note", "slurm", "not in a Slurm job; time limit, requeueing and the signal's way were not checked."
        )
        return
    job = read_job(environment)
    if not job:
        remedy = "Add Slurm's bin folder to the PATH (launch/slurm/site.sh); job.sh needs scontrol to requeue."
        yield Finding("error", "slurm", "scontrol cannot be asked about this job.", remedy)
        return
    yield check_time(config, job)
    if job.get("Requeue") != "1":
        remedy = "sbatch --requeue, or submit the same line again by hand: the run goes on."
        yield Finding("warning", "slurm", "this job is not requeued after a time limit or a preemption.", remedy)
    stop_file = environment.get(STOP_FILE)
    if not stop_file:
        remedy = "Start it with launch/slurm/train.sbatch, whose script tells the run by a file."
        yield Finding(
            "warning", "slurm", f"{STOP_FILE} is not set: the signal before the time limit reaches no rank.", remedy
        )
    elif not os.access(Path(stop_file).parent, os.W_OK):
        yield Finding(
            "error", "slurm", f"{stop_file} cannot be written.", "Submit the job from a folder that you may write."
        )
    else:
        yield Finding("ok", "slurm", f"a wish to stop arrives by {stop_file}.")


def check_time(config: Config, job: Mapping[str, str]) -> Finding:
    left_s, step_s = time_left_s(job), last_step_s(config.run.folder)
    if left_s is None:
        return Finding("ok", "slurm", "the job has no time limit.")
    if step_s is None:
        return Finding(
            "note",
            "slurm",
            f"{left_s:,.0f} s until the time limit; how long a step takes is known after its first records.",
        )
    complaint = describe_interval(config.checkpoint.every, step_s, left_s)
    if complaint:
        text, _, remedy = complaint.partition(" Set it")
        return Finding("warning", "slurm", text, f"Set it{remedy}")
    text = f"{left_s:,.0f} s until the time limit, a checkpoint every {config.checkpoint.every * step_s:,.0f} s."
    return Finding("ok", "slurm", text)


def last_step_s(folder: Path) -> float | None:
    """Returns how long a step took when this run was recorded last."""
    path = RunFolder(folder).metrics_file
    if not path.is_file():
        return None
    for line in reversed(path.read_text(encoding="utf-8").splitlines(keepends=True)):
        record = json.loads(line) if line.endswith("\n") else {}
        if "train/step_s" in record:
            return float(record["train/step_s"])
    return None


def check_versions() -> Iterator[Finding]:
    """Checks what is installed against what this version of matl_scale asks for, and torch against its torchvision."""
    found = []
    for requirement in metadata.requires("matl-scale") or []:
        name, bounds = split_requirement(requirement)
        if "extra ==" in requirement:
            continue
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            yield Finding("error", "versions", f"{name} is not installed.", f"pip install '{name}{bounds}'")
            continue
        if not satisfies(version, bounds):
            yield Finding("error", "versions", f"{name} {version} is not {bounds}.", f"pip install '{name}{bounds}'")
        found.append(f"{name} {version}")
    yield Finding("ok", "versions", ", ".join(found) + ".")
    yield check_torchvision(metadata.version("torch"), metadata.version("torchvision"))
    if not torch.cuda.is_available() and Path("/dev/nvidia0").exists():
        remedy = "Install the CUDA build of torch, or a newer driver (nvidia-smi says what it supports)."
        yield Finding("warning", "versions", "this machine has a GPU that torch cannot use.", remedy)


def check_torchvision(torch_version: str, torchvision_version: str) -> Finding:
    """Checks that torch and torchvision were made for each other: torchvision 0.N belongs to torch 2.(N − 15)."""
    expected = f"2.{numbers(torchvision_version)[1] - 15}"
    if numbers(torch_version)[:2] == numbers(expected):
        return Finding(
            "ok", "versions", f"torch {torch_version} and torchvision {torchvision_version} belong together."
        )
    text = f"torchvision {torchvision_version} belongs to torch {expected}, not {torch_version}."
    return Finding("error", "versions", text, f"pip install 'torch=={expected}.*', or the torchvision of your torch.")


def split_requirement(requirement: str) -> tuple[str, str]:
    """Splits `name>=1,<2; marker` into its name and its bounds."""
    found = re.match(r"([A-Za-z0-9._-]+)\s*([^;]*)", requirement)
    assert found
    return found[1], found[2].strip()


def satisfies(version: str, bounds: str) -> bool:
    """Returns whether a version lies within bounds of the form `>=1.2,<3`."""
    for bound in filter(None, bounds.split(",")):
        found = re.match(r"(>=|<)\s*([\d.]+)", bound.strip())
        assert found, bound
        have, limit = numbers(version), numbers(found[2])
        if (have >= limit) != (found[1] == ">="):
            return False
    return True


def numbers(version: str) -> list[int]:
    """Returns the numbers with which a version begins."""
    found = re.match(r"\d+(\.\d+)*", version)
    return [int(part) for part in found[0].split(".")] if found else []
