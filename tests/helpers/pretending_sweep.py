"""A sweep that trains nothing: what happens in a run is said by its name. No torch, so that its processes start at once.

python -m helpers.pretending_sweep DIR                             does the sweep
python -m helpers.pretending_sweep DIR CONNECTION STARTER          is a worker of it, as `matl_scale.sweep.worker`
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from matl_scale.runs.sweep_folder import Outcome, PlannedRun, Search, SearchOutcome, SweepFolder, SweepPlan, Variant
from matl_scale.sweep.share import Share
from matl_scale.sweep.supervise import Supervisor, list_waiting
from matl_scale.sweep.tuning.died import read_death
from matl_scale.sweep.worker import main
from matl_scale.train.health.stop import StopRequest

STEP_S, STEPS, LONG_STEPS = 0.02, 10, 100
DIARY = "diary.txt"  # beside the plan: a line when a run begins or goes on, one when it ends


def pretend(folder: SweepFolder, _: SweepPlan, run: PlannedRun) -> Outcome:
    """Does a run of `STEPS` steps that goes on where it was killed, unless its name says something else."""
    note(folder, f"begin {run.name} {os.getpid()}")
    if run.name.startswith("raises"):
        raise ValueError("it was told to")
    if run.name.startswith("dies"):
        os.kill(os.getpid(), signal.SIGKILL)
    if run.name.startswith("tells"):
        print(os.sched_getaffinity(0), os.environ["CUDA_VISIBLE_DEVICES"])
    checkpoint = folder.run_folder(run) / "checkpoint"
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    steps = len(checkpoint.read_text()) if checkpoint.exists() else 0
    while steps < (LONG_STEPS if run.name.startswith("long") else STEPS):
        time.sleep(STEP_S)
        steps += 1
        checkpoint.write_text("x" * steps)
    note(folder, f"end {run.name} {os.getpid()}")
    outcome = Outcome(status="finished", steps=steps, labels=steps * (run.seed + 1))
    folder.write_outcome(run, outcome)
    return outcome


def pretend_search(folder: SweepFolder, _: SweepPlan, search: Search, say: Callable[[str], None]) -> SearchOutcome:
    """Does a search, unless its name says something else; one that dies does so once."""
    note(folder, f"begin {search.name} {os.getpid()}")
    folder.search_folder(search).mkdir(parents=True, exist_ok=True)
    say(f"{search.variant}: trial 1 of 1")
    if search.name.startswith("raises"):
        raise ValueError("no trial was trained")
    if search.name.startswith("dies") and not read_death(folder.search_folder(search)):
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(STEP_S * STEPS)
    note(folder, f"end {search.name} {os.getpid()}")
    outcome = SearchOutcome(status="finished", tuned={"optim.lr": 0.5})
    folder.write_outcome(search, outcome)
    return outcome


def note(folder: SweepFolder, line: str) -> None:
    with (folder.path / DIARY).open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")


def make_up_sweep(root: Path, names: Sequence[str]) -> tuple[SweepFolder, SweepPlan]:
    """Writes the plan of a sweep of such runs."""
    plan = SweepPlan(
        variants=[Variant(name="dense", arm="dense")],
        runs=[PlannedRun(name=name, variant="dense", seed=i, settings={}) for i, name in enumerate(names)],
        reference="dense",
        budget="steps",
        amount=1,
        split="test",
        base={},
    )
    folder = SweepFolder(root)
    folder.write_plan(plan)
    return folder, plan


def make_up_tuned_sweep(root: Path, names: Sequence[str]) -> tuple[SweepFolder, SweepPlan]:
    """Writes the plan of a sweep with variants of these names, each with a search and a run."""
    folder, plan = make_up_sweep(root, names)
    plan = replace(
        plan,
        variants=[Variant(name=name, arm=name) for name in names],
        runs=[replace(run, variant=run.name, name=f"run-of-{run.name}") for run in plan.runs],
        tune=1,
        searches=[Search(name=f"{name}-search", variant=name) for name in names],
    )
    folder.write_plan(plan)
    return folder, plan


def build_supervisor(folder: SweepFolder, since: float = 0.0, number: int = 2) -> tuple[Supervisor, list[str]]:
    """Returns what does the runs of a sweep, and the names of those that have ended, once it does."""
    ended: list[str] = []
    supervisor = Supervisor(
        folder=folder,
        waiting=list_waiting(folder, folder.read_plan(), since),
        since=since,
        shares=[Share(cores=frozenset(os.sched_getaffinity(0)), gpu=str(i)) for i in range(number)],
        on_end=lambda run: ended.append(run.name),
        module="helpers.pretending_sweep",
    )
    return supervisor, ended


def supervise(root: Path) -> bool:
    """Does a sweep; returns False if it was asked to stop."""
    with StopRequest() as stop:
        return build_supervisor(SweepFolder(root))[0].run(stop)


if __name__ == "__main__":
    if len(sys.argv) == 2:
        supervise(Path(sys.argv[1]))
    else:
        main(sys.argv[1:], pretend, pretend_search)
