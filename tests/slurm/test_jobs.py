"""Jobs in a real Slurm: stopped by preemption and by the time limit, they go on and end as if nothing had happened, on slow
nodes too: what the tests wait for has no other limit than minutes.

`pytest -m slurm` with SLURM_CONF pointing at a Slurm of two nodes; `tests/slurm/lab up DIR` starts one.
"""

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from helpers.run_configs import assert_identical, load_state
from helpers.shard_sets import ShardSet

pytestmark = pytest.mark.slurm
ROOT = Path(__file__).parents[2]
ENDS = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
STEPS = 400
SETTINGS = [
    "--data.batch_size", "6", "--data.workers", "1", "--model.name", "resnet18", "--model.width", "0.0625",
    "--model.stem", "small", "--train.steps", str(STEPS), "--train.accumulate", "4", "--train.precision", "fp32",
    "--eval.every", "150", "--checkpoint.every", "100", "--track.every", "1", "--data.augment", "crop-flip",
]  # fmt: skip


def command(*words: object, cwd: Path = ROOT) -> str:
    result = subprocess.run([str(word) for word in words], cwd=cwd, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def submit(*words: object, cwd: Path = ROOT) -> str:
    return command("sbatch", "--parsable", *words, cwd=cwd)


def facts(job: str) -> dict[str, str]:
    """Returns what Slurm says of a job."""
    words = command("scontrol", "show", "job", job, "--oneliner").split()
    return dict(word.split("=", 1) for word in words if "=" in word)


def node_states(node: str) -> set[str]:
    """Returns what Slurm says of a node, as `{"DOWN", "NOT_RESPONDING"}`."""
    words = command("scontrol", "show", "node", node, "--oneliner").split()
    state = next(word.removeprefix("State=") for word in words if word.startswith("State="))
    return {part.rstrip("*") for part in state.split("+")}


def bring_back(node: str) -> None:
    """Makes a node that is down usable again. Slurm refuses that of a node that it has brought back by itself meanwhile."""

    def is_up() -> bool:
        if "DOWN" in node_states(node):
            subprocess.run(["scontrol", "update", f"NodeName={node}", "State=RESUME"], capture_output=True, check=False)
        return not node_states(node) & {"DOWN", "DRAIN"}

    wait_until(is_up, f"{node} to be up")


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = 600) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"{what}: not within {timeout_s:.0f} s"
        time.sleep(0.5)


def test_a_job_without_nodes_is_refused_when_it_is_submitted() -> None:
    result = subprocess.run(
        ["sbatch", "launch/slurm/train.sbatch"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode != 0
    assert result.stderr.strip() == "sbatch: error: Batch job submission failed: Node count specification invalid"


class Job:
    """A run on two nodes with one rank each."""

    def __init__(self, folder: Path, name: str, shards: ShardSet, *options: str) -> None:
        self.folder, self.log = folder / name, folder / f"{name}.log"
        self.id = submit(
            "--nodes=2", f"--output={self.log}", *options, "launch/slurm/train.sbatch",
            "--run.dir", folder, "--run.name", name, "--data.path", shards.root, "--track.experiment", name, *SETTINGS,
        )  # fmt: skip

    def num_records(self) -> int:
        path = self.folder / "metrics.jsonl"
        return len(path.read_text().splitlines()) if path.is_file() else 0

    def wait_for_steps(self) -> None:
        def has_steps() -> bool:
            assert facts(self.id)["JobState"] not in ENDS, self.log.read_text()
            return self.num_records() > 20

        wait_until(has_steps, f"{self.log} to have steps")

    def limit_time(self) -> None:
        """Sets the time limit to two or three minutes from now; Slurm knows whole minutes only."""
        hours, minutes, _ = map(int, facts(self.id)["RunTime"].split(":"))
        command("scontrol", "update", f"JobId={self.id}", f"TimeLimit={60 * hours + minutes + 3}")

    def pause_copy_to_mlflow(self) -> None:
        """Stops the process that copies the run to MLflow, as a store that hangs would."""
        command("pkill", "-STOP", "-f", f"mlflow_follower {self.folder} ")

    def state(self) -> dict:
        return load_state(self.folder / "checkpoints" / f"step-{STEPS:09d}")


def start_again(job: str, log: Path) -> None:
    """Waits until a job is in the queue again, and takes away the minutes that Slurm lets requeued jobs wait."""

    def is_queued() -> bool:
        now = facts(job)
        assert now["Restarts"] == "1" or now["JobState"] not in ENDS, f"{now}\n{log.read_text()}"
        return now["Restarts"] == "1" and now["JobState"] == "PENDING"

    wait_until(is_queued, "requeue")
    time.sleep(10)  # that wait is there for the nodes, which still end the earlier start
    command("scontrol", "update", f"JobId={job}", "StartTime=now")


def wait_for_end(job: str, log: Path) -> None:
    wait_until(lambda: facts(job)["JobState"] in ENDS, "end")
    assert facts(job)["JobState"] == "COMPLETED", log.read_text()


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory, small_set: ShardSet) -> Iterator[dict[str, Job]]:
    """Three runs at once: one is left alone, one is preempted, and one, whose copy to MLflow hangs, reaches its time limit."""
    assert shutil.which("sbatch"), "pytest -m slurm needs a Slurm: eval $(tests/slurm/lab up DIR)"
    folder = tmp_path_factory.mktemp("jobs")
    started = {
        "preempted": Job(folder, "preempted", small_set, "--partition=scavenge", "--cpus-per-task=2"),
        "limited": Job(folder, "limited", small_set, "--partition=main", "--cpus-per-task=1", "--time=60"),
        "whole": Job(folder, "whole", small_set, "--partition=main", "--cpus-per-task=1"),
    }
    try:
        started["limited"].wait_for_steps()
        started["limited"].pause_copy_to_mlflow()
        started["limited"].limit_time()
        started["preempted"].wait_for_steps()
        submit("--partition=main", "--nodes=2", "--ntasks-per-node=3", "--output=/dev/null", "--wrap", "srun sleep 1")
        for name in ("preempted", "limited"):
            start_again(started[name].id, started[name].log)
        command("scontrol", "update", f"JobId={started['limited'].id}", "TimeLimit=60")
        for job in started.values():
            wait_for_end(job.id, job.log)
        yield started
    finally:
        for job in started.values():
            subprocess.run(["scancel", job.id], check=False)


@pytest.mark.parametrize("name", ["preempted", "limited"])
def test_weights_equal_those_of_an_uninterrupted_run(name: str, jobs: dict[str, Job]) -> None:
    log = jobs[name].log.read_text()
    reason = {"preempted": "SIGTERM", "limited": "SIGUSR2"}[name]
    assert f"({reason}), with a checkpoint" in log
    assert "the run ended with exit code 0" in log
    if name == "limited":  # while its copy to MLflow hung
        assert log.count("requeued, with a complete checkpoint") == 1
    assert_identical(jobs["whole"].state(), jobs[name].state())


# mlflow and what it imports warn about each other
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["preempted", "limited"])
def test_one_finished_mlflow_run_has_every_step_once(name: str, jobs: dict[str, Job]) -> None:
    from mlflow import MlflowClient

    job = jobs[name]
    client = MlflowClient(f"sqlite:///{job.folder.parent}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name(name).experiment_id])
    assert [run.info.status for run in runs] == ["FINISHED"]
    history = client.get_metric_history(runs[0].info.run_id, "train/loss")
    assert [metric.step for metric in history] == list(range(1, STEPS + 1))
    records = [json.loads(line) for line in (job.folder / "metrics.jsonl").read_text().splitlines()]
    assert [metric.value for metric in history] == [r["train/loss"] for r in records if "train/loss" in r]
    assert [r["step"] for r in records if "val/macro_auroc" in r] == [150, 300, STEPS]


NODE = """#!/bin/bash
if ((SLURM_RESTART_COUNT > 0)); then
  exit 0
fi
trap : TERM
while [[ $(scontrol show job "$SLURM_JOB_ID" --oneliner) == *" JobState=RUNNING "* ]]; do sleep 1; done
if [[ $SLURM_NODEID == 0 ]]; then touch "$MATL_STOP_FILE.stopped"; fi
sleep 600
"""


def test_a_job_that_lost_a_node_goes_on(tmp_path: Path) -> None:
    """Slurm requeues it, and the script does not do so once more when the run on the remaining node says that it has stopped."""
    shutil.copytree(ROOT / "launch" / "slurm", tmp_path / "launch" / "slurm")
    (tmp_path / "launch" / "slurm" / "node.sh").write_text(NODE)
    log = tmp_path / "log"
    job = submit("--nodes=2", "--time=60", f"--output={log}", "launch/slurm/train.sbatch", cwd=tmp_path)
    try:
        wait_until(lambda: facts(job)["JobState"] == "RUNNING", "start")
        command("scontrol", "update", "NodeName=n2", "State=DOWN", "Reason=test")
        wait_until(lambda: facts(job)["Restarts"] == "1", "requeue by Slurm")
        bring_back("n2")
        start_again(job, log)
        wait_for_end(job, log)
    finally:
        subprocess.run(["scancel", job], check=False)
    assert "requeued, with" not in log.read_text()
