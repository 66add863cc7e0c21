"""`damaged.csv` of a run: the samples that could not be read, each once per rank, whoever met them."""

import csv
from collections.abc import Iterator
from pathlib import Path

from matl_scale.data.damage import DamageLog
from matl_scale.data.loader import ImageBatch
from matl_scale.data.reader import Damage

DAMAGED_FILE = "damaged.csv"


def watch(batches: Iterator[ImageBatch], log: DamageLog, folder: Path | None) -> Iterator[ImageBatch]:
    """Passes batches on, and notes their damaged samples.

    Args:
        batches: Of one rank.
        log: Of the split.
        folder: Of the run; None keeps no list.

    Raises:
        InputError: There are too many.
    """
    for batch in batches:
        if batch.damage and (new := log.add(batch.damage)) and folder is not None:
            append(folder, log.split, new)
        yield batch


def append(folder: Path, split: str, damages: list[Damage]) -> None:
    path = folder / DAMAGED_FILE
    with path.open("a", encoding="utf-8", newline="") as file:  # short appends of several ranks do not mix
        csv.writer(file, lineterminator="\n").writerows((split, d.file, d.key, d.reason) for d in damages)
