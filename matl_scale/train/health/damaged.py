"""Damaged samples over all ranks: every rank knows of all, so that they stop together; the first one lists them."""

import csv
from collections.abc import Sequence
from pathlib import Path

import torch.distributed as dist
from accelerate import Accelerator

from matl_scale.data.loading.damage import DamageLog
from matl_scale.data.shards.reader import Damage
from matl_scale.runs.layout import RunFolder


def share_damage(accelerator: Accelerator, log: DamageLog, mine: Sequence[Damage], folder: Path | None) -> None:
    """Adds what each rank has met to the log that all have. All ranks have to call it.

    Args:
        accelerator: Of the ranks.
        log: Of the split.
        mine: What this rank has met.
        folder: Of the run, whose `damaged.csv` gets a line for each new one; None keeps no list.

    Raises:
        InputError: There are too many; on all ranks.
    """
    met: list[Sequence[Damage]] = [mine]
    if accelerator.num_processes > 1:
        met = [()] * accelerator.num_processes
        dist.all_gather_object(met, mine)
    new = log.add(Damage(*damage) for part in met for damage in part)
    if new and folder is not None and accelerator.is_main_process:
        append(folder, log.split, new)
    log.check()


def append(folder: Path, split: str, damages: Sequence[Damage]) -> None:
    with RunFolder(folder).damaged_file.open("a", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows((split, d.file, d.key, d.reason) for d in damages)
