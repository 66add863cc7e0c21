"""Variants that serve all tasks of a sweep, and those that serve only some: single networks for a few tasks, or fewer tasks.

Advice is about all tasks, so it is given on the former. The latter are compared on the tasks that all variants have.
"""

from dataclasses import replace

from matl_scale.report.sweep.read import SweepRuns


def split_by_tasks(runs: SweepRuns) -> tuple[SweepRuns, list[str]]:
    """Returns the runs of the variants that serve all tasks, and the names of the other variants. If none serves all tasks, all
    variants are of the former kind."""
    tasks_of: dict[str, set[str]] = {}
    for cell in runs.cells:
        tasks_of.setdefault(cell.variant, set()).update(cell.tasks)
    everything = set().union(*tasks_of.values())
    partial = [name for name, tasks in tasks_of.items() if tasks != everything]
    if len(partial) == len(tasks_of):
        return runs, []
    return replace(runs, cells=[cell for cell in runs.cells if cell.variant not in partial]), partial


def find_reference(runs: SweepRuns, names: list[str]) -> str | None:
    """Returns the variant that the others are compared with, out of `names`: the plan's, or the first one of the same arm, where
    the plan's serves only some of the tasks; None if there is none."""
    planned = runs.plan.reference
    if planned in names:
        return planned
    arms = {variant.name: variant.arm for variant in runs.plan.variants}
    partial = any(cell.variant == planned for cell in runs.cells)
    return next((name for name in names if partial and arms[name] == arms[planned]), None)
