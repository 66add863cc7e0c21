"""A rank that is killed below `accelerate launch --max_restarts` comes back from the newest checkpoint."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers.shard_sets import ShardSet

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_killed_rank_comes_back(small_set: ShardSet, tmp_path: Path) -> None:
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", "launch/accelerate/cpu.yaml"]
    settings = [
        "--run.dir", tmp_path, "--data.path", small_set.root, "--data.batch_size", "6", "--data.workers", "1",
        "--model.width", "0.0625", "--model.stem", "small", "--train.steps", "300", "--train.accumulate", "4",
        "--checkpoint.every", "20", "--eval.every", "150", "--track.every", "1", "--track.mlflow", "false",
    ]  # fmt: skip
    command = [*launcher, "--max_restarts", "1", "launch/train.py", *map(str, settings)]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
    end = time.monotonic() + 200
    while not list((tmp_path / "run" / "checkpoints").glob("step-*")):
        assert time.monotonic() < end, (tmp_path / "log").read_text()
        time.sleep(0.1)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGKILL)
    assert process.wait(300) == 0, (tmp_path / "log").read_text()
    assert "resuming from" in (tmp_path / "log").read_text()
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records if "train/lr" in record] == list(range(1, 301))
