"""Study `defaults`: a run that is given nothing but its data and its minutes, beside eight configs chosen by hand."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from matl_scale.benchmark.studies.outcomes import macro
from matl_scale.benchmark.studies.sets import SETS
from matl_scale.benchmark.studies.study import Single, Study
from matl_scale.benchmark.studies.workbench import Workbench

SEEDS = (0, 1, 2)
MINUTES = 5.0
MEASURE = "macro balanced accuracy, decided"
SMALL_VGG = {"model.name": "vgg11_bn", "model.width": 0.25, "model.stem": "small", "optim.lr": 0.003}
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
    for seed in SEEDS:
        for name in SETS:
            yield from on_set(bench, name, seed)


def on_set(bench: Workbench, name: str, seed: int) -> Iterator[Single]:
    """Trains the configs chosen by hand, and then nothing but the defaults."""
    found = []
    for row, settings in BY_HAND.items():
        values = train(bench, name, row, seed, settings)
        if values is not None:
            found.append(values[MEASURE])
            yield Single(table=name, row=row, seed=seed, values=values)
    values = train(bench, name, "defaults", seed, {})
    if values is not None:
        ratio = {"÷ best of the eight": values[MEASURE] / max(found)} if len(found) == len(BY_HAND) else {}
        yield Single(table=name, row="defaults", seed=seed, values={**values, **ratio})


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
        "Five minutes of training steps for each run, on as many cores as the process may use. Digits: 175 tasks, 1,257 images "
        "for train; Fashion-MNIST: ten one-vs-rest tasks, 55,000 images; CIFAR-100 as 20 tasks with images of their own, and as "
        "100 one-vs-rest tasks, 45,000 images; four sources: digits, Fashion-MNIST, coarse and fine classes of CIFAR-100, up to "
        "10,000 images each. `defaults` is given its data and its minutes; the other rows were chosen by hand, and leave the "
        "rest to the rules. Measured on test, means over tasks, then over seeds, with 95 % intervals over seeds."
    ),
    singles=singles,
)
