"""The plan of a shard set: the split and shard of every row, on disk before an image is written.

Everything that follows is a function of the plan. Any number of processes on any machines write the same bytes, and a process
that was killed is simply started again.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.labels.matrix import map_matrix
from data_prep.planning.row_tables import LABELS_FILE, SPLITS_FILE, RowTables, read_names
from matl_scale.data.shards.layout import label_dtype, shard_name, split_rank
from matl_scale.errors import InputError
from matl_scale.storage.files import hash_text
from matl_scale.tasks import Task

PLAN_FILE = "plan.json"
DROPPED_FILE = "dropped.csv"
DROPPED = 255  # split number of a row that is not written


@dataclass(frozen=True, kw_only=True)
class PlannedShard:
    """One tar to be written."""

    file: str  # name of the tar
    split: str  # split of its samples
    start: int  # index of its first sample within the split
    samples: int  # number of its samples
    first_key: int  # number of the first sample's key


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A plan on disk, opened."""

    folder: Path  # folder of the row tables
    id: str  # equal for equal input and options
    tasks: tuple[Task, ...]  # the tasks, one per column of the labels
    splits: tuple[str, ...]  # names of the splits, by number
    shards: tuple[PlannedShard, ...]  # the shards, in order
    num_rows: int  # number of rows, including dropped ones
    resize: int | None  # side length in pixels to which images are scaled and cropped, or None
    image_root: str  # where the images are, for error messages

    @property
    def labels(self) -> np.ndarray:
        """The label matrix of all rows, shape `(num_rows, num_tasks)`, mapped into memory."""
        return map_matrix(self.folder / LABELS_FILE, label_dtype(self.tasks), self.num_rows, len(self.tasks))

    def rows_of(self, shard: PlannedShard) -> np.ndarray:
        """Returns the rows of a shard, ascending, shape `(shard.samples,)`."""
        rows = rows_of_split(self, self.splits.index(shard.split))
        return rows[shard.start : shard.start + shard.samples]

    def read_names(self, rows: np.ndarray) -> tuple[list[str], np.ndarray]:
        """Returns the names of some rows, ascending, and the indices to read their images by."""
        return read_names(self.folder, rows)


@lru_cache(maxsize=2)
def _rows_of_split(path: Path, id: str, number: int) -> np.ndarray:  # noqa: ARG001
    rows = np.flatnonzero(np.fromfile(path, dtype=np.uint8) == number)
    return rows.astype(np.uint32) if len(rows) < 2**32 else rows


def rows_of_split(plan: Plan, number: int) -> np.ndarray:
    """Returns the rows of a split, ascending; they are cached for the split's next shard."""
    return _rows_of_split(plan.folder / SPLITS_FILE, plan.id, number)


def plan_id(tables: RowTables, options: dict[str, Any], tasks: Sequence[Task]) -> str:
    """Returns the id of the plan that these rows and options lead to."""
    declared = [[task.name, list(task.classes), task.source] for task in tasks]
    return hash_text(json.dumps([tables.sha256, options, declared], sort_keys=True))


def cut_shards(
    numbers: np.ndarray, splits: Sequence[str], bytes_per_sample: float, shard_bytes: float, first_key: int
) -> list[PlannedShard]:
    """Cuts each split into shards with equal numbers of samples and about `shard_bytes` each.

    Args:
        numbers: Split number of every row.
        splits: Names of the splits, by number.
        bytes_per_sample: Mean size of a sample in the tar.
        shard_bytes: Largest size of a shard of average samples.
        first_key: Number of the first key.
    """
    shards = []
    for name in sorted(splits, key=split_rank):
        count = int((numbers == splits.index(name)).sum())
        num_shards = min(count, int(np.ceil(count * bytes_per_sample / shard_bytes)))
        ends = np.round(np.linspace(0, count, num_shards + 1)).astype(int)
        for number, (start, stop) in enumerate(zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True)):
            shards.append(
                PlannedShard(
                    file=shard_name(name, number), split=name, start=start, samples=stop - start, first_key=first_key
                )
            )
            first_key += stop - start
    return shards


def write_plan(plan: Plan, path: Path) -> None:
    """Writes a plan without its tables as JSON."""
    content = {
        "id": plan.id,
        "tasks": [asdict(task) for task in plan.tasks],
        "splits": plan.splits,
        "shards": [asdict(shard) for shard in plan.shards],
        "num_rows": plan.num_rows,
        "resize": plan.resize,
        "place": plan.image_root,
    }
    path.write_text(json.dumps(content, indent=1, sort_keys=True), encoding="utf-8")


def read_plan(path: Path, folder: Path) -> Plan:
    """Opens a plan.

    Args:
        path: Its JSON file.
        folder: Folder of its tables.

    Raises:
        InputError: It cannot be read.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Plan(
            folder=folder,
            id=content["id"],
            tasks=tuple(
                Task(name=t["name"], classes=tuple(t["classes"]), source=t["source"]) for t in content["tasks"]
            ),
            splits=tuple(content["splits"]),
            shards=tuple(PlannedShard(**shard) for shard in content["shards"]),
            num_rows=content["num_rows"],
            resize=content["resize"],
            image_root=content["place"],
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} cannot be read: {error!r}. Delete {path.parent} and begin again.") from error
