"""Study `image-size`: the size at which images are read, in a run that has no time for their own."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from matl_scale.benchmark.studies.alphabets import SIDE, draw_alphabets
from matl_scale.benchmark.studies.outcomes import macro
from matl_scale.benchmark.studies.study import Single, Study
from matl_scale.benchmark.studies.workbench import Workbench

SEEDS = (0, 1, 2)
MINUTES = 3.0
SIZES = (SIDE, 64, 32)
AUTO_AND_OWN = 2  # of the rows


def singles(bench: Workbench) -> Iterator[Single]:
    rows: dict[str, dict[str, Any]] = {"auto": {}} | {f"{size} pixels": {"data.image_size": size} for size in SIZES}
    for seed in SEEDS:
        for row, settings in list(rows.items())[: len(rows) if seed == SEEDS[0] else AUTO_AND_OWN]:
            given = {**settings, "train.minutes": MINUTES, "run.seed": seed}
            folder = f"image-size-{row.replace(' ', '_')}-seed{seed}"
            if values := bench.run(folder, lambda: shard_alphabets(bench), given, measure, rules=True):
                yield Single(table="data.image_size", row=row, seed=seed, values=values)


def shard_alphabets(bench: Workbench) -> Path:
    return bench.shard_set("alphabets", lambda: draw_alphabets(0))


def measure(folder: Path) -> Mapping[str, float]:
    names = ("balanced_accuracy", "average_precision")
    return {f"macro {name.replace('_', ' ')}": macro(folder, name) for name in names}


STUDY = Study(
    name="image-size",
    conditions=(
        f"{MINUTES:g} minutes of CPU time for the training steps of each run, which is given nothing else but the size. 50 "
        f"made-up alphabets of 14 to 55 characters, a task each; of each character, 14 drawings of {SIDE} pixels for train, "
        "three for val and three for test. 64 and 32 pixels with the first seed alone. Measured on test, means over tasks, then "
        "over seeds, with 95 % intervals."
    ),
    singles=singles,
)
