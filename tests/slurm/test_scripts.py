"""The job scripts without a Slurm: stand-ins for its commands record how they were called."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RUNNING = "JobState=RUNNING Reason=None Restarts=0"
JOB = {"SLURM_JOB_ID": "1234567", "SLURM_JOB_NUM_NODES": "2", "SLURM_NTASKS": "2", "SLURM_JOB_NODELIST": "n[1-2]"}


STAND_INS = {
    # a busy controller refuses the first BUSY calls; DIES: it does what it is told, and is ended before it can say so
    "scontrol": """
        case "$1 $2" in
        "show hostnames") echo n1; echo n2 ;;
        "show job") [[ -z ${DIES:-} ]] || ! grep -q requeue "$CALLS" || STATE="JobState=COMPLETING Reason=None Restarts=1"
          echo "JobId=1 $STATE x=y" ;;
        *) echo "$@" >>"$CALLS"; [[ -z ${DIES:-} ]] && (($(grep -c requeue "$CALLS") > ${BUSY:-0})) ;;
        esac""",
    # STOPS: the run stops when asked to; LINGERS: it ends only after its job was requeued
    "srun": """
        echo "$MASTER_HOST $MASTER_JOB_PORT ${MATL_SCRIPT:+$MATL_SCRIPT }$@" >>"$CALLS"
        [[ -z ${STOPS:-} ]] || touch "$MATL_STOP_FILE.stopped"
        if [[ -n ${LINGERS:-} ]]; then
          until grep -q requeue "$CALLS"; do /bin/sleep 0.1; done
          echo "the run ends" >>"$CALLS"
        fi
        exit ${CODE:-0}""",
    "sleep": "exec /bin/sleep 0.05",
}


@pytest.fixture
def commands(tmp_path: Path) -> Path:
    """A folder with stand-ins for srun, scontrol and sleep."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, body in STAND_INS.items():
        (folder / name).write_text(f"#!/bin/bash\n{body}\n")
        (folder / name).chmod(0o755)
    return folder


def run(script: str, commands: Path, *arguments: str, **environment: str) -> tuple[int, str, list[str]]:
    """Returns a script's exit code, what it printed, and how it called Slurm."""
    calls = commands / "calls"
    calls.unlink(missing_ok=True)
    path = environment.pop("PATH", f"{commands}:{os.environ['PATH']}")
    values = {"PATH": path, "CALLS": str(calls), "STATE": RUNNING, **environment}
    command = ["/bin/bash", f"launch/slurm/{script}", *arguments]
    result = subprocess.run(command, cwd=ROOT, env=values, capture_output=True, text=True, check=False)
    return result.returncode, result.stderr, calls.read_text().splitlines() if calls.exists() else []


def test_arguments_reach_every_node(commands: Path) -> None:
    code, _, calls = run("train.sbatch", commands, "--config", "a b.yaml", "--train.steps", "5", **JOB)
    assert code == 0
    assert calls == ["n1 24567 --kill-on-bad-exit=1 launch/slurm/node.sh --config a b.yaml --train.steps 5"]


STATES = {
    "running": (RUNNING, True),
    "beyond its time limit": ("JobState=COMPLETING Reason=TimeLimit Restarts=0", True),
    "counted as timed out": ("JobState=TIMEOUT Reason=TimeLimit Restarts=0", True),
    "cancelled": ("JobState=CANCELLED Reason=None Restarts=0", False),
    "being cancelled": ("JobState=COMPLETING Reason=None Restarts=0", False),
    "requeued by Slurm": ("JobState=COMPLETING Reason=None Restarts=1", False),
    "requeued beyond its time limit": ("JobState=COMPLETING Reason=TimeLimit Restarts=1", False),
    "back in the queue": ("JobState=PENDING Reason=BeginTime Restarts=1", False),
}


def test_a_requeue_whose_answer_was_lost_counts(commands: Path) -> None:
    """Slurm ends all processes of the job that it requeues: scontrol, too, if it is still there."""
    code, error, calls = run("train.sbatch", commands, **JOB, STOPS="1", DIES="1")
    assert (code, calls[1:]) == (-signal.SIGTERM, ["requeue 1234567"])
    assert error.count("requeued, with a complete checkpoint") == 1


@pytest.mark.parametrize("state", STATES)
def test_a_stopped_run_is_requeued_unless_its_job_is_cancelled_or_back(state: str, commands: Path) -> None:
    about, requeued = STATES[state]
    code, error, calls = run("train.sbatch", commands, **JOB, STOPS="1", STATE=about)
    assert code == (-signal.SIGTERM if requeued else 75)
    assert "the run ended with exit code 75" in error
    assert calls.count("requeue 1234567") == requeued


def test_a_second_start_is_requeued_too(commands: Path) -> None:
    about = "JobState=RUNNING Reason=None Restarts=1"
    _, _, calls = run("train.sbatch", commands, **JOB, STOPS="1", STATE=about, SLURM_RESTART_COUNT="1")
    assert calls.count("requeue 1234567") == 1


def test_the_job_is_requeued_while_the_stopped_run_still_ends(commands: Path) -> None:
    _, _, calls = run("train.sbatch", commands, **JOB, STOPS="1", LINGERS="1")
    assert calls[1:] == ["requeue 1234567", "the run ends"]


def test_a_busy_controller_is_asked_again(commands: Path) -> None:
    code, _, calls = run("train.sbatch", commands, **JOB, STOPS="1", BUSY="3")
    assert code == -signal.SIGTERM
    assert calls.count("requeue 1234567") == 4


def test_a_task_of_an_array_requeues_itself_alone(commands: Path) -> None:
    """The last task of an array has the array's own number, which means all of them to scontrol."""
    array = {"SLURM_ARRAY_JOB_ID": "1234567", "SLURM_ARRAY_TASK_ID": "3"}
    _, _, calls = run("train.sbatch", commands, **JOB, **array, STOPS="1")
    assert "requeue 1234567_3" in calls


def test_a_failed_run_is_not_requeued(commands: Path) -> None:
    code, _, calls = run("train.sbatch", commands, **JOB, CODE="3")
    assert code == 3
    assert not any("requeue" in call for call in calls)


BAD = {
    "outside a job": ({"SLURM_JOB_ID": ""}, "submit this script: sbatch --nodes=N"),
    "tasks": (
        {"SLURM_NTASKS": "4"},
        "one task per node should be asked for: --nodes=N --ntasks-per-node=1. Got 4 tasks on 2 nodes.",
    ),
    "no scontrol": ({"PATH": "/nowhere"}, "scontrol is not in the PATH"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(case: str, commands: Path) -> None:
    change, message = BAD[case]
    code, error, _ = run("train.sbatch", commands, **{**JOB, **change})
    assert code == 2
    errors = [line for line in error.splitlines() if ": error: " in line]
    assert len(errors) == 1
    assert message in errors[0]


def test_a_sweep_is_one_process_on_one_node(commands: Path) -> None:
    """It starts a process for each GPU itself, and shares its runs with the other tasks of the array by locks."""
    one = {
        **JOB,
        "SLURM_JOB_NUM_NODES": "1",
        "SLURM_NTASKS": "1",
        "SLURM_ARRAY_JOB_ID": "7",
        "SLURM_ARRAY_TASK_ID": "3",
    }
    code, _, calls = run("sweep.sbatch", commands, "--arms", "dense,k8", "--out", "a b", **one, STOPS="1")
    assert code == -signal.SIGTERM
    assert calls == [
        "n1 24567 launch/sweep.py --kill-on-bad-exit=1 launch/slurm/node.sh --arms dense,k8 --out a b",
        "requeue 7_3",
    ]
    code, error, _ = run("sweep.sbatch", commands, **JOB)
    assert code == 2
    assert "each task should have one node: --nodes=1. Got 2." in error


def test_a_node_starts_a_sweep_without_a_launcher(commands: Path) -> None:
    node = {
        "SLURM_NODEID": "0",
        "MATL_STOP_FILE": str(commands / "stop"),
        "SLURM_JOB_NUM_NODES": "1",
        "SLURM_GPUS_ON_NODE": "4",
    }
    values = {"PATH": os.environ["PATH"], **node, "MATL_SCRIPT": "launch/sweep.py", "RUN_IN": "echo in a container:"}
    command = ["/bin/bash", "launch/slurm/node.sh", "--out", "DIR"]
    result = subprocess.run(command, cwd=ROOT, env=values, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "in a container: python launch/sweep.py --out DIR"


@pytest.mark.parametrize("gpus", ["", "4"])
def test_a_node_starts_its_share_of_the_processes(gpus: str, commands: Path) -> None:
    node = {
        "SLURM_NODEID": "1",
        "MASTER_HOST": "n1",
        "MASTER_JOB_PORT": "24567",
        "MATL_STOP_FILE": str(commands / "stop"),
    }
    values = {"PATH": os.environ["PATH"], **JOB, **node, "RUN_IN": "echo in a container:"}
    if gpus:
        values["SLURM_GPUS_ON_NODE"] = gpus
    command = ["/bin/bash", "launch/slurm/node.sh", "--config", "a.yaml"]
    result = subprocess.run(command, cwd=ROOT, env=values, capture_output=True, text=True, check=True)
    (commands / "stop").write_text("SIGTERM")  # as if it had come while site.sh was read
    stopped = subprocess.run(command, cwd=ROOT, env=values, capture_output=True, text=True, check=False)
    assert (stopped.returncode, stopped.stdout) == (75, "")
    assert (commands / "stop.stopped").exists()
    assert result.stdout.strip() == (
        "in a container: accelerate launch --config_file launch/accelerate/multi_node.yaml --num_machines 2 "
        f"--num_processes {8 if gpus else 2} --machine_rank 1 --main_process_ip n1 --main_process_port 24567 --max_restarts 0 "
        "launch/train.py --config a.yaml"
    )
