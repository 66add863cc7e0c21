"""Studies `answers` and `same-arm`: whether what a sweep says holds for other seeds, and whether it tells equal arms apart."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from matl_scale.benchmark.studies.samples import draw_samples
from matl_scale.benchmark.studies.sets import SETS
from matl_scale.benchmark.studies.study import Single, Study
from matl_scale.benchmark.studies.workbench import Workbench
from matl_scale.commands.sweep import open_given
from matl_scale.errors import RunError
from matl_scale.report.sweep.compute import compute_sweep
from matl_scale.report.sweep.read import read_sweep
from matl_scale.report.sweep.results import SweepQuestion, SweepResults
from matl_scale.runs.sweep_folder import PlannedRun, SweepFolder
from matl_scale.storage.files import write_text
from matl_scale.sweep.open_sweep import mark_start
from matl_scale.sweep.run_planned import run_planned
from matl_scale.sweep.supervise import list_waiting
from matl_scale.sweep.worker import printing_to
from matl_scale.train.loop import Hooks

SEEDS, OTHER_SEEDS = "0,1,2", "3,4,5"
ARMS = "dense,task,k8"
FOUR_ARMS = "dense,task,k2"  # of the set that has only four tasks
MINUTES = 1
MANY_IMAGES = ("fashion-10", "cifar-20", "cifar-100")  # sets whose evaluation would take longer than that
NUM_VAL, NUM_TEST = 1_000, 2_000  # images of these
NETWORK = ("--model.name", "vgg11_bn", "--model.width", "0.125", "--model.stem", "small")
AT_THE_END = ("--eval.every", "1000000")
LOCAL = ("--track.mlflow", "false", "--data.workers", "0")
NUM_SWEEPS = 20
QUESTION = SweepQuestion(metric="decided_balanced_accuracy", alpha=0.05)


def sweep(bench: Workbench, name: str, arguments: Sequence[str]) -> SweepResults | None:
    """Runs a sweep, or what is left of it, and returns its results; None for one that `only` leaves out."""
    if bench.only not in name:
        return None
    folder = bench.work / "sweeps" / name
    bench.say(f"{name}: a sweep")
    run_sweep([*arguments, *LOCAL, "--out", str(folder)])
    return compute_sweep(read_sweep(SweepFolder(folder)), QUESTION)


def run_sweep(arguments: Sequence[str]) -> None:
    """Does the runs of a sweep that have no outcome yet, one after the other. Minutes of a budget are those of the process's CPU
    time, so that what else the machine does changes little."""
    opened = open_given(arguments)
    for run in list_waiting(opened.folder, opened.plan, mark_start(opened.folder)):
        assert isinstance(run, PlannedRun), "the studies search no settings"
        with printing_to(opened.folder.log_file(run)):
            outcome = run_planned(opened.folder, opened.plan, run, Hooks(seconds=time.process_time))
        if outcome is None:
            raise RunError(
                f"{run.name} in {opened.folder.path} was asked to stop. Start the study again to continue it."
            )


def answers(bench: Workbench) -> Iterator[Single]:
    for name in SETS:
        data = write_set(bench, name)
        arms = FOUR_ARMS if name == "four-sources" else ARMS
        arguments = ["--data.path", str(data), *NETWORK, *AT_THE_END, "--arms", arms, "--budget", f"minutes={MINUTES}"]
        first = sweep(bench, f"{name}-first", [*arguments, "--seeds", SEEDS])
        second = sweep(bench, f"{name}-second", [*arguments, "--seeds", OTHER_SEEDS])
        if first and second:
            can_tell = first.answer.certain
            values = {
                "best of the other seeds, or cannot tell": not can_tell or first.answer.use == second.answer.best,
                "can tell": can_tell,
            }
            bench.say(f"{name}: {first.answer.text}")
            yield Single(table="answers", row=name, seed=0, values={key: float(value) for key, value in values.items()})


def write_set(bench: Workbench, name: str) -> Path:
    """Returns the folder of a set; of one with many images, with fewer in val and test."""
    if name not in MANY_IMAGES:
        return bench.shard_set(name, lambda: SETS[name](bench))
    return bench.shard_set(
        f"{name}-evaluated-on-{NUM_TEST}",
        lambda: draw_samples(SETS[name](bench), 10**9, NUM_VAL, NUM_TEST, seed=0).as_dataset(),
    )


def same_arm(bench: Workbench) -> Iterator[Single]:
    data = bench.shard_set("digits-175", lambda: SETS["digits-175"](bench))
    for number in range(NUM_SWEEPS):
        arms = write_twins(bench.work / "arms")
        seeds = ",".join(str(3 * number + i) for i in range(3))
        found = sweep(
            bench,
            f"same-{number}",
            ["--data.path", str(data), "--data.tasks", "digit_in_?", *NETWORK, "--arms", arms, "--seeds", seeds,
             "--budget", "minutes=0.05"],
        )  # fmt: skip
        if found:
            other = next(each for each in found.variants if each.standing != "best")
            values = {
                "called different": float(other.behind.p <= QUESTION.alpha),
                "one of the tasks": float(any(each.better or each.worse for each in found.variants)),
            }
            yield Single(table="same arm", row="one config under two names", seed=number, values=values)


def write_twins(folder: Path) -> str:
    """Writes one arm under two names, and returns both for `--arms`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("one", "other"):
        write_text(folder / f"{name}.yaml", "routing:\n  routes: 2\n  sigma: 0.5\n")
    return ",".join(str(folder / f"{name}.yaml") for name in ("one", "other"))


ANSWERS = Study(
    name="answers",
    needs=("fashion_mnist", "cifar100"),
    conditions=(
        "On each of five sets (see the study `defaults`), two sweeps of a plain network, a route per task and eight routes (two, "
        "where there are four tasks), with a minute of CPU time for the steps of a run and three seeds each: does the arm that "
        "the first names have the best mean of the second, or does the first say that it cannot tell? VGG-11 with batch norm at "
        "an eighth of its width, evaluated once, at the end, on 2,000 images for test of Fashion-MNIST and CIFAR-100."
    ),
    singles=answers,
    are_shares=True,
)
SAME_ARM = Study(
    name="same-arm",
    conditions=(
        "Twenty sweeps of one config under two names, three seeds each, on ten tasks of digits. Each run has three seconds of "
        "CPU time for its steps, so that no two are equal to the last bit: how often does a sweep call the two different, by "
        "their macro figure, or for one of the ten tasks?"
    ),
    singles=same_arm,
    are_shares=True,
)
