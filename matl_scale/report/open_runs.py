"""From run folders to runs, and the split that all of them were evaluated on."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from matl_scale.errors import InputError
from matl_scale.runs.history import RunHistory
from matl_scale.runs.layout import RunFolder


def open_runs(folders: Sequence[Path]) -> list[RunHistory]:
    """Opens the runs.

    Raises:
        InputError: One cannot be read, or is given twice.
    """
    runs: dict[Path, RunHistory] = {}
    for folder in folders:
        if folder.resolve() in runs:
            raise InputError(f"The run {folder} is given twice. Give each run once.")
        try:
            runs[folder.resolve()] = RunHistory(folder)
        except (pa.ArrowException, OSError) as error:
            raise InputError(
                f"{RunFolder(folder).per_task_file} cannot be read ({error}). Evaluate the run again: "
                f"matl-evaluate --run {folder}."
            ) from error
    return list(runs.values())


def choose_split(runs: Sequence[RunHistory], wanted: str | None) -> str:
    """Returns the split asked for, or the one that the first run would choose among those that all runs have.

    Raises:
        InputError: A run was not evaluated on it.
    """
    shared = [split for split in runs[0].steps if all(split in run.steps for run in runs)]
    split = runs[0].choose_split(wanted)
    if wanted is None and split not in shared and shared:
        split = max(shared, key=lambda name: len(runs[0].steps[name]))
    for run in runs:
        run.choose_split(split)
    return split
