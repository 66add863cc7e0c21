"""Study `decisions`: what fitted decisions make of trained networks, on digits and on CIFAR-100."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.dataset import Dataset
from data_prep.sources import cifar100, digits
from matl_scale.benchmark.studies.outcomes import macro, measure_unfitted, num_higher, per_task
from matl_scale.benchmark.studies.samples import draw_samples
from matl_scale.benchmark.studies.study import Single, Study
from matl_scale.benchmark.studies.workbench import Workbench
from matl_scale.runs.checkpoints.network import open_network
from matl_scale.train.decide_run import decide_run

DIGITS_SEEDS, CIFAR_SEEDS = (0, 1, 2), (0, 1)
# as launch/configs/digits.yaml, but with a route for each task, and so with a batch for each: smaller ones, and more of them
DIGITS: dict[str, Any] = {
    "data.image_size": 16,
    "data.batch_size": 16,
    "model.name": "vgg11_bn",
    "model.width": 0.125,
    "model.stem": "small",
    "routing.routes": "task",
    "routing.sigma": 0.5,
    "train.steps": 1000,
    "train.precision": "bf16",
    "train.accumulate": 16,
    "optim.lr": 0.003,
    "optim.head_lr_scale": 10.0,
    "optim.warmup_steps": 30,
    "eval.every": 0,
}
NUM_TRAIN, NUM_FEW, NUM_VAL = 40_000, 10_000, 10_000
CIFAR: dict[str, Any] = {
    "data.augment": "flip",
    "model.width": 0.25,
    "routing.sigma": 1.0,
    "train.steps": 1500,
    "train.precision": "fp32",
    "optim.lr": 0.003,
    "optim.warmup_steps": 100,
    "eval.every": 0,
}
OVERFITTED = "one route, few images, long"  # 38 times each image: such networks are too sure of themselves
ARMS: dict[str, dict[str, Any]] = {
    "one route": {"routing.routes": "one", "data.batch_size": 128},
    OVERFITTED: {"routing.routes": "one", "data.batch_size": 128, "data.augment": "none", "train.steps": 3000},
    # four tasks in each step; the routes share all units and statistics, so that only heads are a task's own
    "a route per task, balance 1": {
        "data.balance": 1.0,
        "routing.routes": "task",
        "routing.statistics": "shared",
        "data.batch_size": 32,
        "train.accumulate": 4,
        "optim.head_lr_scale": 10.0,
    },
}
TABLES = {
    "CIFAR-100, balanced accuracy": ("argmax", "decided for it", "tasks above argmax"),
    "CIFAR-100, F1": ("argmax", "decided for it", "tasks above argmax"),
    "CIFAR-100, ECE": ("as trained", "prior corrected", "fitted", "corrected ÷ as trained", "fitted ÷ as trained"),
}


def singles(bench: Workbench) -> Iterator[Single]:
    yield from on_digits(bench)
    for seed in CIFAR_SEEDS:
        for row, changes in ARMS.items():
            yield from on_cifar(bench, seed, row, changes)


def on_digits(bench: Workbench) -> Iterator[Single]:
    for seed in DIGITS_SEEDS:
        values = bench.run(
            f"digits-seed{seed}",
            lambda: bench.shard_set("digits", lambda: digits.build(0)),
            {**DIGITS, "run.seed": seed},
            measure_digits,
        )
        if values:
            yield Single(table="digits", row="175 tasks", seed=seed, values=values)


def on_cifar(bench: Workbench, seed: int, row: str, changes: Mapping[str, Any]) -> Iterator[Single]:
    name = f"cifar-{row.replace(', ', '-').replace(' ', '_')}-seed{seed}"
    settings = {**CIFAR, **changes, "run.seed": seed}
    num_train = NUM_FEW if row == OVERFITTED else NUM_TRAIN

    def data() -> Path:
        return bench.shard_set(f"cifar-{num_train}-seed{seed}", lambda: cifar(bench, num_train, seed))

    values = bench.run(name, data, settings, measure_cifar)
    if values is None:
        return
    for table, columns in TABLES.items():
        yield Single(
            table=table, row=row, seed=seed, values={column: values[f"{table}, {column}"] for column in columns}
        )


def cifar(bench: Workbench, num_train: int, seed: int) -> Dataset:
    found = cifar100.build(bench.data["cifar100"], "fine")
    return draw_samples(found, num_train, NUM_VAL, 10_000, seed).as_dataset()


def measure_digits(folder: Path) -> Mapping[str, float]:
    return {
        "worst balanced accuracy, argmax": float(np.nanmin(per_task(folder, "balanced_accuracy"))),
        "decided": float(np.nanmin(per_task(folder, "decided_balanced_accuracy"))),
        "macro balanced accuracy, argmax": macro(folder, "balanced_accuracy"),
        "macro, decided": macro(folder, "decided_balanced_accuracy"),
    }


def measure_cifar(folder: Path) -> Mapping[str, float]:
    """Returns the values of `TABLES`, under table and column."""
    offsets = open_network(folder, "best").prior_offsets
    trained, corrected = (measure_unfitted(folder, each)["ece"] for each in ({}, offsets))
    argmax, decided, fitted, f1 = (
        per_task(folder, name) for name in ("balanced_accuracy", "decided_balanced_accuracy", "ece", "f1")
    )
    decide_run(folder, "f1", None, "best")
    for_f1 = per_task(folder, "decided_f1")
    means = [each.mean() for each in (trained, corrected, fitted)]
    values = [
        (argmax.mean(), decided.mean(), num_higher(decided, argmax)),
        (f1.mean(), for_f1.mean(), num_higher(for_f1, f1)),
        (*means, means[1] / means[0], means[2] / means[0]),
    ]
    return {
        f"{table}, {column}": float(value)
        for (table, columns), found in zip(TABLES.items(), values, strict=True)
        for column, value in zip(columns, found, strict=True)
    }


STUDY = Study(
    name="decisions",
    needs=("cifar100",),
    conditions=(
        "Digits: the 175 tasks of the demo on 1,797 images, its network, a route for each task, 1,000 steps with 16 batches "
        "of 16 images. CIFAR-100: 100 one-vs-rest tasks, 1 % positive; 40,000 images for train, 10,000 for val, on which is "
        "decided, and 10,000 for test, on which all is measured; ResNet-18 at a quarter of its width, 1,500 steps with 128 "
        "images, flipped at random. `few images, long`: 10,000 for train, 3,000 steps, not flipped. Means over tasks, then over "
        "seeds, with 95 % intervals over seeds."
    ),
    singles=singles,
)
