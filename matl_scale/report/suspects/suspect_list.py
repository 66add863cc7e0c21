"""Labels that are likely wrong, ranked over all tasks of a run, and the CSV file that lists them."""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from matl_scale.data.shards.layout import sample_key
from matl_scale.errors import InputError, reason_of
from matl_scale.runs.predictions import PredictionsInfo
from matl_scale.storage.files import write_text

HEADER = (
    "rank",
    "task",
    "split",
    "sample",
    "image",
    "given",
    "suggested",
    "given_probability",
    "suggested_probability",
    "rank_in_task",
    "correct",
)


@dataclass(frozen=True, kw_only=True)
class Suspect:
    """A label that is likely wrong."""

    task: str
    split: str
    sample: int  # the sample's key
    given: str  # the class that it is labelled with
    suggested: str  # the class that it likely has
    given_probability: float  # calibrated; suspects are ranked by it, the lowest first
    suggested_probability: float
    image: str = ""  # the image's name in the shard set; empty if that was not found


@dataclass(frozen=True, kw_only=True)
class SearchedTask:
    """What was found in the labels of one task."""

    name: str
    num_labels: int  # how many were looked at
    suspects: list[Suspect]  # the most likely first


@dataclass(frozen=True, kw_only=True)
class SuspectList:
    """What was found in the labels of a run."""

    splits: list[PredictionsInfo]  # what was looked at
    tasks: list[SearchedTask]  # in the run's order
    left_out: list[str]  # tasks that could not be searched on every split, as `name: why`
    no_images: str = ""  # why images have no names; empty if they have

    @cached_property
    def ranked(self) -> list[Suspect]:
        """The suspects of all tasks, the most likely first."""
        return sorted(
            (suspect for task in self.tasks for suspect in task.suspects), key=lambda suspect: suspect.given_probability
        )

    @property
    def num_labels(self) -> int:
        """How many labels were looked at."""
        return sum(task.num_labels for task in self.tasks)

    @property
    def most_likely_first(self) -> list[SearchedTask]:
        """The tasks with suspects, by their most likely one."""
        return sorted(
            (task for task in self.tasks if task.suspects), key=lambda task: task.suspects[0].given_probability
        )


def write_suspects(path: Path, found: SuspectList) -> None:
    """Writes one line per suspect, the most likely first.

    Raises:
        InputError: The file cannot be written.
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([HEADER, *lines(found)])
    try:
        write_text(path, text.getvalue())
    except OSError as error:
        raise InputError(f"{path} cannot be written: {reason_of(error, 'Choose another --suspects.')}") from error


def lines(found: SuspectList) -> Iterator[tuple[object, ...]]:
    """Yields the cells of each line. The last one is for people: what they find to be the correct class."""
    seen: dict[str, int] = {}
    for rank, suspect in enumerate(found.ranked, start=1):
        seen[suspect.task] = seen.get(suspect.task, 0) + 1
        yield (
            rank,
            suspect.task,
            suspect.split,
            sample_key(suspect.sample),
            suspect.image,
            suspect.given,
            suspect.suggested,
            f"{suspect.given_probability:.6g}",
            f"{suspect.suggested_probability:.6g}",
            seen[suspect.task],
            "",
        )
