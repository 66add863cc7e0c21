"""Study `imbalance`: losses and class weights where positives are rare, on Fashion-MNIST with positives of train taken away."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from matl_scale.benchmark.studies.fashion import NARROW, NARROW_CONDITIONS, SEEDS, read_and_change
from matl_scale.benchmark.studies.outcomes import macro
from matl_scale.benchmark.studies.samples import thin_positives
from matl_scale.benchmark.studies.study import Single, Study
from matl_scale.benchmark.studies.workbench import Workbench

RATES = (10, 100, 1000)  # negatives per positive in train
ARMS: dict[str, dict[str, Any]] = {
    "cross_entropy": {},
    "class_weight sqrt": {"loss.class_weight": "sqrt"},
    "class_weight inverse": {"loss.class_weight": "inverse"},
    "class_weight effective": {"loss.class_weight": "effective"},
    "focal": {"loss.name": "focal"},
    "asymmetric": {"loss.name": "asymmetric"},
    "logit_adjusted": {"loss.name": "logit_adjusted"},
}


def singles(bench: Workbench) -> Iterator[Single]:
    for seed in SEEDS:
        for rate in RATES:
            for row, changes in ARMS.items():
                yield from train_one(bench, seed, rate, row, changes)


def train_one(bench: Workbench, seed: int, rate: int, row: str, changes: Mapping[str, Any]) -> Iterator[Single]:
    def data() -> Path:
        return bench.shard_set(
            f"imbalance-1in{rate}-seed{seed}",
            lambda: read_and_change(bench, seed, lambda samples: thin_positives(samples, rate, seed)),
        )

    settings = {**NARROW, **changes, "run.seed": seed}
    if values := bench.run(f"imbalance-1in{rate}-{row.replace(' ', '-')}-seed{seed}", data, settings, measure):
        for name, value in values.items():
            yield Single(table=name, row=row, seed=seed, values={f"1:{rate}": value})


def measure(folder: Path) -> Mapping[str, float]:
    return {
        "macro AP": macro(folder, "average_precision"),
        "macro balanced accuracy as decided": macro(folder, "decided_balanced_accuracy"),
        "macro balanced accuracy at argmax": macro(folder, "balanced_accuracy"),
    }


STUDY = Study(
    name="imbalance",
    needs=("fashion_mnist",),
    conditions=(
        f"{NARROW_CONDITIONS} Positive labels of train are taken away at random; val, on which is decided, and test are whole."
    ),
    singles=singles,
)
