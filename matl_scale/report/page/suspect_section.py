"""The labels that are most likely wrong, with their images if the shard set is still there."""

from collections.abc import Callable
from dataclasses import dataclass

from matl_scale.errors import InputError
from matl_scale.report.page.thumbnails import Thumbnails
from matl_scale.report.shard_set import find_fit, open_shard_set
from matl_scale.report.suspects.suspect_list import Suspect, SuspectList
from matl_scale.runs.history import RunHistory

MAX_TASKS = 20
MAX_SUSPECTS = 8  # of each task
Draw = Callable[[Suspect], tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
class ShownSuspect:
    """A suspect with its picture."""

    suspect: Suspect
    image: str  # a data URL of the thumbnail; empty if there is none
    problem: str  # why there is no thumbnail; empty if nothing went wrong


@dataclass(frozen=True, kw_only=True)
class ShownTask:
    """A task and its most likely suspects."""

    name: str
    summary: str
    suspects: list[ShownSuspect]


@dataclass(frozen=True, kw_only=True)
class SuspectSection:
    """What the template shows of the suspects, with sentences on how they were found and on what is missing."""

    tasks: list[ShownTask]
    remarks: list[str]


def build_suspect_section(run: RunHistory, found: SuspectList) -> SuspectSection:
    """Builds what suspects.html.j2 shows: the tasks with the most likely suspects, and the first suspects of each."""
    draw, missing = find_pictures(run, found)
    tasks = found.most_likely_first
    shown = [
        ShownTask(
            name=task.name,
            summary=f"{len(task.suspects):,} of {task.num_labels:,} labels are likely wrong",
            suspects=[show_suspect(suspect, draw) for suspect in task.suspects[:MAX_SUSPECTS]],
        )
        for task in tasks[:MAX_TASKS]
    ]
    return SuspectSection(tasks=shown, remarks=[*describe(found, len(tasks)), *([missing] if missing else [])])


def find_pictures(run: RunHistory, found: SuspectList) -> tuple[Draw, str]:
    """Returns a function that draws a suspect's image, and why there are no images; an empty text if there are."""
    try:
        manifest = open_shard_set(run)
        of_split = {info.split: Thumbnails(manifest, info, find_fit(run)) for info in found.splits}
    except (InputError, OSError) as error:
        return lambda _: ("", ""), f"No images: {error}"
    return lambda suspect: of_split[suspect.split].draw(suspect.sample), ""


def show_suspect(suspect: Suspect, draw: Draw) -> ShownSuspect:
    image, problem = draw(suspect)
    return ShownSuspect(suspect=suspect, image=image, problem=problem)


def describe(found: SuspectList, num_tasks: int) -> list[str]:
    """Returns sentences on what was searched, found and left out."""
    splits = ", ".join(f"{info.split} (step {info.step:,})" for info in found.splits)
    remarks = [
        f"{len(found.ranked):,} of {found.num_labels:,} labels on {splits} are likely wrong, by confident learning (Northcutt et "
        "al., 2021). Below each image: the class that it is labelled with → the class that it likely has, with the "
        "probabilities of both, calibrated."
    ]
    if num_tasks > MAX_TASKS:
        remarks.append(
            f"Shown are the {MAX_TASKS} of {num_tasks:,} tasks with the most likely ones; the CSV file has all."
        )
    if found.left_out:
        remarks.append(f"Not searched: {'; '.join(found.left_out)}.")
    return remarks
