"""Study `missing`: what `data.missing` makes of labels that are not there, on Fashion-MNIST with its labels thinned at random."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from matl_scale.benchmark.studies.fashion import NARROW, NARROW_CONDITIONS, SEEDS, read_and_change
from matl_scale.benchmark.studies.outcomes import macro
from matl_scale.benchmark.studies.samples import keep_labels
from matl_scale.benchmark.studies.study import Single, Study
from matl_scale.benchmark.studies.workbench import Workbench

SHARES = (0.5, 0.1, 0.02)  # of the labels of train that are kept
ARMS: dict[str, dict[str, Any]] = {
    "ignore": {},
    "negative": {"data.missing": "negative"},
    "soft": {"data.missing": "soft"},
}


def singles(bench: Workbench) -> Iterator[Single]:
    for seed in SEEDS:
        for share in SHARES:
            for row, changes in ARMS.items():
                yield from train_one(bench, seed, share, row, changes)


def train_one(bench: Workbench, seed: int, share: float, row: str, changes: Mapping[str, Any]) -> Iterator[Single]:
    def data() -> Path:
        return bench.shard_set(
            f"missing-{share:g}-seed{seed}",
            lambda: read_and_change(bench, seed, lambda samples: keep_labels(samples, share, seed)),
        )

    settings = {**NARROW, **changes, "run.seed": seed}
    if values := bench.run(f"missing-{share:g}-{row}-seed{seed}", data, settings, measure):
        columns = {f"{name}, {share:.0%} of the labels": value for name, value in values.items()}
        yield Single(table="data.missing", row=row, seed=seed, values=columns)


def measure(folder: Path) -> Mapping[str, float]:
    return {"macro AP": macro(folder, "average_precision")}


STUDY = Study(
    name="missing",
    needs=("fashion_mnist",),
    conditions=f"{NARROW_CONDITIONS} Each label of train is kept at random; val and test are whole.",
    singles=singles,
)
