"""Study `defaults`: a run that is given nothing but its data and its minutes, beside eight configs chosen by hand."""

from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from matl_scale.benchmark.studies.outcomes import macro
from matl_scale.benchmark.studies.sets import SETS
from matl_scale.benchmark.studies.study import Single, Study
from matl_scale.benchmark.studies.workbench import Workbench

SEEDS = (0, 1, 2)
NUM_FINALISTS = 2  # of the configs chosen by hand, by the first seed
MINUTES = 5.0
MEASURE, RATIO = "macro balanced accuracy, decided", "÷ best chosen by hand"
SMALL_VGG = {"model.name": "vgg11_bn", "model.width": 0.25, "optim.lr": 0.003}
PLAIN = {"routing.routes": "one", "routing.sigma": 1.0, "data.batch_size": 128, "train.accumulate": 1}
ROUTED = {"data.batch_size": 32, "train.accumulate": 4}
# by the number of tasks, since a set of four tasks has no eight routes
BY_HAND: dict[str, dict[str, Any]] = {
    "one route": {**SMALL_VGG, **PLAIN},
    "one route, rate 0.006": {**SMALL_VGG, **PLAIN, "optim.lr": 0.006},
    "one route, rate 0.001": {**SMALL_VGG, **PLAIN, "optim.lr": 0.001},
    "one route, half the width": {**SMALL_VGG, **PLAIN, "model.width": 0.125},
    "one route, resnet18": {**SMALL_VGG, **PLAIN, "model.name": "resnet18"},
    "4 routes, σ 0.75": {**SMALL_VGG, **ROUTED, "routing.routes": 4, "routing.sigma": 0.75},
    "a route per task, σ 0.75": {**SMALL_VGG, **ROUTED, "routing.routes": "task", "routing.sigma": 0.75},
    "4 routes, σ 0.5": {**SMALL_VGG, **ROUTED, "routing.routes": 4, "routing.sigma": 0.5},
}


def singles(bench: Workbench) -> Iterator[Single]:
    finalists: dict[str, list[str]] = {}
    for seed in SEEDS:
        for name in SETS:
            finalists[name] = yield from on_set(bench, name, seed, finalists.get(name, list(BY_HAND)))


def on_set(bench: Workbench, name: str, seed: int, rows: Sequence[str]) -> Generator[Single, None, list[str]]:
    """Trains some of the configs chosen by hand, and then nothing but the defaults. Returns the best of the former."""
    found: dict[str, float] = {}
    for row in rows:
        values = train(bench, name, row, seed, BY_HAND[row])
        if values is not None:
            found[row] = values[MEASURE]
            yield Single(table=name, row=row, seed=seed, values=values)
    values = train(bench, name, "defaults", seed, {})
    if values is not None:
        ratio = {RATIO: values[MEASURE] / max(found.values())} if len(found) == len(rows) else {}
        yield Single(table=name, row="defaults", seed=seed, values={**values, **ratio})
    return sorted(found, key=lambda row: found[row], reverse=True)[:NUM_FINALISTS]


def train(bench: Workbench, name: str, row: str, seed: int, settings: Mapping[str, Any]) -> Mapping[str, float] | None:
    folder = f"{name}-{row.replace(', ', '-').replace(' ', '_')}-seed{seed}"
    given = {**settings, "train.minutes": MINUTES, "run.seed": seed}
    return bench.run(folder, lambda: bench.shard_set(name, lambda: SETS[name](bench)), given, measure, rules=True)


def measure(folder: Path) -> Mapping[str, float]:
    return {MEASURE: macro(folder, "decided_balanced_accuracy"), "AP": macro(folder, "average_precision")}


STUDY = Study(
    name="defaults",
    needs=("fashion_mnist", "cifar100"),
    conditions=(
        "Five minutes of CPU time for the training steps of each run. Digits: 175 tasks, 1,257 images for train; Fashion-MNIST: "
        "ten one-vs-rest tasks, 55,000 images; CIFAR-100 as 20 tasks with images of their own, and as 100 one-vs-rest tasks, "
        "45,000 images; four sources: digits, Fashion-MNIST, coarse and fine classes of CIFAR-100, up to 10,000 images each. "
        "`defaults` is given its data and its minutes; the other rows were chosen by hand, and leave the rest to the rules; all "
        "eight are trained with the first seed, the two best of a set with the others. Measured on test, means over tasks, then "
        "over seeds, with 95 % intervals over seeds."
    ),
    singles=singles,
)
