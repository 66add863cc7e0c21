"""Workers that crash, die, are stopped and killed: every run ends once, whoever does it."""

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from unittest.mock import Mock

import pytest

from helpers.pretending_sweep import DIARY, LONG_STEPS, STEPS, build_supervisor, make_up_sweep, supervise
from matl_scale.runs.sweep_folder import SweepFolder, SweepPlan
from matl_scale.storage.locks import lock_folder
from matl_scale.sweep.share import Share
from matl_scale.sweep.supervise import Worker, list_waiting
from matl_scale.sweep.worker import record_failure
from matl_scale.train.health.stop import StopRequest


@pytest.fixture(autouse=True)
def _helpers_for_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{Path(__file__).parents[1]}:{os.environ.get('PYTHONPATH', '')}")


def outcomes(folder: SweepFolder, plan: SweepPlan) -> dict[str, tuple[str, str, int]]:
    found = {run.name: folder.read_outcome(run) for run in plan.runs}
    return {name: (each.status, each.reason, each.labels) for name, each in found.items() if each is not None}


def test_a_run_that_raises_and_one_that_dies_leave_the_others_alone(tmp_path: Path) -> None:
    folder, plan = make_up_sweep(tmp_path, ["raises", "dies", "a", "b"])
    start = time.time() - 1
    supervisor, ended = build_supervisor(folder, start)
    with StopRequest() as stop:
        assert supervisor.run(stop)
    assert sorted(ended) == ["a", "b", "dies", "raises"]
    assert outcomes(folder, plan) == {
        "raises": ("failed", "it was told to", 0),
        "dies": ("failed", "its process was ended by SIGKILL: too little memory, or somebody's kill", 0),
        "a": ("finished", "", 3 * STEPS),
        "b": ("finished", "", 4 * STEPS),
    }
    assert "ValueError: it was told to" in folder.log_file(plan.runs[0]).read_text()
    # in this start nothing is left; the next one tries again what failed, and nothing else
    assert list_waiting(folder, plan, start) == []
    assert [run.name for run in list_waiting(folder, plan, time.time() + 1)] == ["raises", "dies"]


def test_a_worker_that_died_is_replaced_also_where_two_shares_are_equal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runs at a time on one core; one worker is at a run, the other one has died."""
    folder, plan = make_up_sweep(tmp_path, ["a", "b"])
    supervisor, _ = build_supervisor(folder, time.time())
    first, second = supervisor.shares = [Share(cores=frozenset({0}), gpu="") for _ in range(2)]
    supervisor.workers = [Mock(share=first, run=plan.runs[0])]
    start = Mock(side_effect=lambda share: Mock(share=share))
    monkeypatch.setattr(supervisor, "_start", start)
    supervisor.waiting = [plan.runs[1]]
    supervisor._hand_out()
    start.assert_called_once_with(second)
    assert start.call_args.args[0] is second


def start_sweep(folder: SweepFolder) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-m", "helpers.pretending_sweep", str(folder.path)])


def test_a_sweep_killed_three_times_has_the_same_table(tmp_path: Path) -> None:
    names = [f"run{i}" for i in range(6)]
    whole, plan = make_up_sweep(tmp_path / "whole", names)
    supervise(whole.path)
    killed, _ = make_up_sweep(tmp_path / "killed", names)
    for begun in (1, 3, 5):
        process = start_sweep(killed)
        wait_for_lines(killed.path / DIARY, "begin", begun)
        process.kill()
        process.wait()
    supervise(killed.path)
    assert outcomes(killed, plan) == outcomes(whole, plan)
    assert len(outcomes(killed, plan)) == len(names)
    assert_no_run_twice_at_once(killed.path / DIARY)


def wait_for_lines(path: Path, word: str, count: int) -> None:
    for _ in range(3000):
        if path.exists() and path.read_text().count(word) >= count:
            return
        time.sleep(0.01)
    raise AssertionError(f"{path} has not {count} lines with {word}")


def assert_no_run_twice_at_once(diary: Path) -> None:
    """A run begins again only when the process that was at it is gone, and ends once."""
    lines = [line.split() for line in diary.read_text().splitlines()]
    ended = [name for word, name, _ in lines if word == "end"]
    assert len(ended) == len(set(ended))
    for name in set(ended):
        assert [word for word, other, _ in lines if other == name][-1] == "end"


def test_workers_end_with_a_killed_supervisor(tmp_path: Path) -> None:
    folder, _ = make_up_sweep(tmp_path, ["long a", "long b"])
    process = start_sweep(folder)
    wait_for_lines(tmp_path / DIARY, "begin", 2)
    workers = [int(line.split()[-1]) for line in (tmp_path / DIARY).read_text().splitlines()]
    process.kill()
    process.wait()
    for _ in range(1000):
        if not any(Path(f"/proc/{pid}").exists() for pid in workers):
            return
        time.sleep(0.01)
    raise AssertionError("workers outlive their supervisor")


def test_a_request_to_stop_ends_workers_and_the_next_start_goes_on(tmp_path: Path) -> None:
    folder, plan = make_up_sweep(tmp_path, ["a", "long", "c"])
    supervisor, _ = build_supervisor(folder, number=1)
    with StopRequest() as stop:
        threading.Timer(
            0, lambda: (wait_for_lines(tmp_path / DIARY, "begin", 2), os.kill(os.getpid(), signal.SIGTERM))
        ).start()
        assert not supervisor.run(stop)
    assert set(outcomes(folder, plan)) == {"a"}
    supervisor, ended = build_supervisor(folder)
    with StopRequest() as stop:
        assert supervisor.run(stop)
    assert sorted(ended) == ["c", "long"]
    assert outcomes(folder, plan)["long"] == ("finished", "", 2 * LONG_STEPS)


@pytest.mark.parametrize("leave_others", [True, False])
def test_runs_of_other_processes_are_left_to_them(tmp_path: Path, leave_others: bool) -> None:
    folder, _plan = make_up_sweep(tmp_path, ["a", "b"])
    supervisor, ended = build_supervisor(folder)
    supervisor.leave_others = leave_others
    with contextlib.ExitStack() as other, StopRequest() as stop:
        other.enter_context(lock_folder(folder.claims, "a.lock"))
        if not leave_others:  # whoever had it dies, without an outcome
            threading.Timer(1.0, other.close).start()
        assert supervisor.run(stop)
    assert sorted(ended) == (["b"] if leave_others else ["a", "b"])


def test_what_another_process_has_ended_meanwhile_is_not_tried_again(tmp_path: Path) -> None:
    """Each of the processes of an array would otherwise repeat each run that fails."""
    folder, plan = make_up_sweep(tmp_path, ["raises", "b"])
    start = time.time() - 1
    supervisor, ended = build_supervisor(folder, start)
    record_failure(folder, plan.runs[0], "elsewhere")
    with StopRequest() as stop:
        assert supervisor.run(stop)
    assert sorted(ended) == ["b", "raises"]
    assert outcomes(folder, plan)["raises"] == ("failed", "elsewhere", 0)


def test_a_run_is_not_lost_with_a_worker_that_dies_before_it_has_got_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = make_up_sweep(tmp_path, ["a"])
    supervisor, ended = build_supervisor(folder, number=1)
    start, number = supervisor._start, itertools.count()

    def start_badly(share: Share) -> Worker:
        worker = start(share)
        if next(number) == 0:
            worker.process.kill()
            worker.process.wait()
        return worker

    monkeypatch.setattr(supervisor, "_start", start_badly)
    with StopRequest() as stop:
        assert supervisor.run(stop)
    assert ended == ["a"]


def test_a_worker_is_confined_to_its_share(tmp_path: Path) -> None:
    """Not the whole machine: the width of a network, its loader processes and threads go by the cores."""
    folder, plan = make_up_sweep(tmp_path, ["tells"])
    core = min(os.sched_getaffinity(0))
    supervisor, _ = build_supervisor(folder)
    supervisor.shares = [Share(cores=frozenset({core}), gpu="7")]
    with StopRequest() as stop:
        assert supervisor.run(stop)
    told = folder.log_file(plan.runs[0]).read_text().split()
    assert told == [str({core}), "7"]
    assert core in os.sched_getaffinity(0)
    assert "CUDA_VISIBLE_DEVICES" not in os.environ or os.environ["CUDA_VISIBLE_DEVICES"] != "7"
