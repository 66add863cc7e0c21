"""Damaged samples over all ranks: every rank knows all of them, so that all stop together; the first rank lists them."""

import csv
from collections.abc import Sequence
from pathlib import Path

import torch.distributed as dist
from accelerate import Accelerator

from matl_scale.data.loading.damage import DamageLog
from matl_scale.data.shards.reader import Damage
from matl_scale.runs.layout import RunFolder


def share_damage(accelerator: Accelerator, log: DamageLog, mine: Sequence[Damage], folder: Path | None) -> None:
    """Adds the damaged samples that each rank has met to the log, which is equal on all ranks. All ranks have to call it.

    `damaged.csv` in the run's folder gets a line for each new one; without a folder there is no list.

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
