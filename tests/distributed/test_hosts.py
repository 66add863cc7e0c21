"""Two hosts for real: network namespaces joined by a cable that can be cut. Needs root and Debian's iproute2."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from helpers import rank_work
from helpers.ranks import run_ranks
from helpers.run_configs import assert_identical, build_config, saved_state
from helpers.shard_sets import ShardSet
from matl_scale.train.config import Config, dump_config
from matl_scale.train.health.nonfinite import GuardConfig
from matl_scale.train.schedule import CheckpointConfig
from matl_scale.train.step.train_step import TrainConfig

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
HOSTS = {"matl-a": "10.77.0.1", "matl-b": "10.77.0.2"}
CABLE = "cable"


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


@pytest.fixture
def hosts() -> Iterator[None]:
    """Makes two hosts and joins them."""
    for host in HOSTS:
        subprocess.run(["ip", "netns", "delete", host], check=False, stderr=subprocess.DEVNULL)
        ip("netns", "add", host)
    try:
        ip("-n", "matl-a", "link", "add", CABLE, "type", "veth", "peer", "name", CABLE, "netns", "matl-b")
        for host, address in HOSTS.items():
            ip("-n", host, "address", "add", f"{address}/24", "dev", CABLE)
            ip("-n", host, "link", "set", "lo", "up")
            ip("-n", host, "link", "set", CABLE, "up")
        yield
    finally:
        for host in HOSTS:
            ip("netns", "delete", host)


def start(config: Config, rank: int, log: Path) -> subprocess.Popen[bytes]:
    """Starts the rank of a host as its owner would."""
    host = list(HOSTS)[rank]
    file = log.parent / f"{config.run.name}.yaml"
    file.write_text(dump_config(config))
    launcher = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        "launch/accelerate/multi_node.yaml",
    ]
    options = ["--num_machines", "2", "--num_processes", "2", "--machine_rank", str(rank)]
    options += ["--main_process_ip", HOSTS["matl-a"], "--main_process_port", "29555"]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "GLOO_SOCKET_IFNAME": CABLE, "OMP_NUM_THREADS": "1"}
    command = ["ip", "netns", "exec", host, *launcher, *options, "launch/train.py", "--config", str(file)]
    with log.open("wb") as output:
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT)


@pytest.mark.usefixtures("hosts")
def test_a_cut_cable_ends_both_hosts_and_the_run_goes_on_afterwards(small_set: ShardSet, tmp_path: Path) -> None:
    cut, whole = (
        build_config(
            tmp_path,
            small_set,
            name,
            train=TrainConfig(steps=600, precision="fp32", accumulate=4),
            checkpoint=CheckpointConfig(every=10),
            guard=GuardConfig(timeout_s=8),
        )
        for name in ("cut", "whole")
    )
    logs = [tmp_path / f"host-{rank}.log" for rank in range(2)]
    ranks = [start(cut, rank, logs[rank]) for rank in range(2)]
    end = time.monotonic() + 120
    while not list((cut.run.folder / "checkpoints").glob("step-*")):
        assert time.monotonic() < end, logs[0].read_text()
        assert all(rank.poll() is None for rank in ranks), "".join(log.read_text() for log in logs)
        time.sleep(0.2)
    ip("-n", "matl-a", "link", "set", CABLE, "down")
    for rank in ranks:
        assert rank.wait(120) != 0
    for number, log in enumerate(logs):
        text = log.read_text()
        print(text)
        assert f"rank {number} of 2: nothing has happened for 8 s (guard.timeout_s) in step " in text
        assert "Ranks that do not respond" in text
    ip("-n", "matl-a", "link", "set", CABLE, "up")
    ranks = [start(cut, rank, logs[rank]) for rank in range(2)]
    assert [rank.wait(300) for rank in ranks] == [0, 0], logs[0].read_text()
    assert "resuming from" in logs[0].read_text()
    run_ranks(2, rank_work.train_runs, tmp_path / "ranks", [whole], False)
    assert yaml.safe_load((cut.run.folder / "config.yaml").read_text())["train"]["steps"] == saved_state(cut)["step"]
    assert_identical(saved_state(whole), saved_state(cut))
