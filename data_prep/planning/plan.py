"""The plan of a shard set: the split and shard of every row, on disk before an image is written.

Everything that follows is a function of the plan. Any number of processes on any machines write the same bytes, and a process
that was killed is simply started again.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from data_prep.labels.label_column import map_matrix
from data_prep.planning.row_tables import LABELS_FILE, SPLITS_FILE
from matl_scale.data.shards.layout import label_dtype, shard_name, split_rank
from matl_scale.errors import InputError
from matl_scale.tasks import Task

PLAN_FILE = "plan.json"
DROPPED_FILE = "dropped.csv"
DROPPED = 255  # split number of a row that is not written


@dataclass(frozen=True, kw_only=True)
class PlannedShard:
    """One tar to be written."""

    file: str
    split: str
    start: int  # index of its first sample within the split
    samples: int
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
        rows = rows_of_split(self.folder / SPLITS_FILE, self.id, self.splits.index(shard.split))
        return rows[shard.start : shard.start + shard.samples]


@lru_cache(maxsize=2)
def rows_of_split(path: Path, plan_id: str, number: int) -> np.ndarray:  # noqa: ARG001 - other plans have other rows
    """Returns the rows of a split, ascending; they are cached for the split's next shard."""
    rows = np.flatnonzero(np.fromfile(path, dtype=np.uint8) == number)
    return rows.astype(np.uint32) if len(rows) < 2**32 else rows


def cut_shards(
    numbers: np.ndarray, splits: Sequence[str], bytes_per_sample: float, shard_bytes: float, first_key: int
) -> list[PlannedShard]:
    """Cuts each split into shards with equal numbers of samples, given the split number of every row and the names of splits by
    number. A shard of average samples has at most `shard_bytes`.
    """
    shards = []
    for name in sorted(splits, key=split_rank):
        count = int((numbers == splits.index(name)).sum())
        num_shards = min(count, int(np.ceil(count * bytes_per_sample / shard_bytes)))
        ends = np.round(np.linspace(0, count, num_shards + 1)).astype(int)
        for number, (start, stop) in enumerate(zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True)):
            file, samples = shard_name(name, number), stop - start
            shards.append(PlannedShard(file=file, split=name, start=start, samples=samples, first_key=first_key))
            first_key += samples
    return shards


def write_plan(plan: Plan, path: Path) -> None:
    """Writes a plan without its tables as JSON."""
    content = asdict(plan)
    del content["folder"]
    content["place"] = content.pop("image_root")  # its name in plans of earlier versions, which stay readable
    path.write_text(json.dumps(content, indent=1, sort_keys=True), encoding="utf-8")


def read_plan(path: Path, folder: Path) -> Plan:
    """Opens a plan from its JSON file and the folder of its tables; raises `InputError` if it cannot be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Plan(
            folder=folder,
            id=content["id"],
            tasks=tuple(Task(**{**task, "classes": tuple(task["classes"])}) for task in content["tasks"]),
            splits=tuple(content["splits"]),
            shards=tuple(PlannedShard(**shard) for shard in content["shards"]),
            num_rows=content["num_rows"],
            resize=content["resize"],
            image_root=content["place"],
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} cannot be read: {error!r}. Delete {path.parent} and begin again.") from error
