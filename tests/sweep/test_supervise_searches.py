"""Searches are work like runs; the runs of a variant wait for its search."""

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.pretending_sweep import DIARY, build_supervisor, make_up_tuned_sweep
from matl_scale.runs.sweep_folder import Outcome, SearchOutcome, SweepFolder
from matl_scale.storage.locks import lock_folder
from matl_scale.sweep.supervise import list_waiting
from matl_scale.train.health.stop import StopRequest


@pytest.fixture(autouse=True)
def _helpers_for_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{Path(__file__).parents[1]}:{os.environ.get('PYTHONPATH', '')}")


def do(
    folder: SweepFolder, leave_others: bool = False, on_note: Callable[[str], object] | None = None
) -> tuple[list[str], list[str]]:
    """Does a sweep; returns what has ended and what was said, in order."""
    supervisor, ended = build_supervisor(folder, since=time.time())
    said: list[str] = []

    def note(text: str) -> None:
        said.append(text)
        if on_note is not None:
            on_note(text)

    supervisor.on_note, supervisor.leave_others = note, leave_others
    with StopRequest() as stop:
        assert supervisor.run(stop)
    return ended, said


def test_runs_wait_for_the_search_of_their_variant_alone(tmp_path: Path) -> None:
    folder, plan = make_up_tuned_sweep(tmp_path, ["a", "raises", "dies"])
    ended, said = do(folder)
    assert sorted(ended) == sorted(work.name for work in plan.work)
    diary = [line.split()[:2] for line in (tmp_path / DIARY).read_text().splitlines()]
    for name in ("a", "dies"):
        assert diary.index(["end", f"{name}-search"]) < diary.index(["begin", f"run-of-{name}"])
    assert "a: trial 1 of 1" in said

    # a process that dies costs a trial, not the search; a search without a result fails, and its runs with it
    assert diary.count(["begin", "dies-search"]) == 2
    found = {search.variant: folder.read_search(search) for search in plan.searches}
    tuned = SearchOutcome(status="finished", tuned={"optim.lr": 0.5})
    assert found == {
        "a": tuned,
        "raises": SearchOutcome(status="failed", reason="no trial was trained"),
        "dies": tuned,
    }
    assert [variant.tuned for variant in folder.read_plan().variants] == [tuned.tuned, {}, tuned.tuned]
    failed = folder.read_outcome(plan.runs[1])
    assert failed is not None
    assert failed.status == "failed"
    assert "the search for the settings of `raises` found none: no trial was trained" in failed.reason
    assert ["begin", "run-of-raises"] not in diary
    # both are tried again by the next start
    assert [work.name for work in list_waiting(folder, plan, time.time() + 1)] == ["raises-search", "run-of-raises"]


@pytest.mark.parametrize("leave_others", [False, True])
def test_a_search_of_another_process_is_waited_for(tmp_path: Path, leave_others: bool) -> None:
    """By a task of an array too: that other process may end without a result, and nobody else would do it."""
    folder, plan = make_up_tuned_sweep(tmp_path, ["a"])
    with contextlib.ExitStack() as other:
        other.enter_context(lock_folder(folder.claims, "a-search.lock"))
        ended, said = do(
            folder, leave_others, on_note=lambda _: other.close()
        )  # the other process ends when it is noticed
    assert ended == ["a-search", "run-of-a"]
    assert said[0].endswith("tune/a-search: another process searches there; its runs wait for that")
    assert isinstance(folder.read_outcome(plan.runs[0]), Outcome)
