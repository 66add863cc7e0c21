"""Labels that are likely wrong, in a terminal."""

from rich.console import Console

from matl_scale.display import show_name
from matl_scale.report.suspects.suspect_list import Suspect, SuspectList
from matl_scale.report.terminal.console import build_table, print_line, print_remaining, print_table


def print_suspects(console: Console, found: SuspectList, limit: int) -> None:
    """Prints how many labels are likely wrong, and the tasks with the most likely ones; lists have at most `limit` entries."""
    splits = ", ".join(f"{show_name(info.split)} after {info.step:,} steps" for info in found.splits)
    print_line(console, f"labels likely wrong: {len(found.ranked):,} of {found.num_labels:,} on {splits}")
    tasks = found.most_likely_first
    if tasks:
        table = build_table(
            "task", "labels", "likely wrong", "share", more_names=["first suspect", "given", "suggested"]
        )
        for task in tasks[:limit]:
            first, count = task.suspects[0], len(task.suspects)
            counts = (f"{task.num_labels:,}", f"{count:,}", f"{count / task.num_labels:.2%}")
            table.add_row(task.name, name_sample(first), first.given, first.suggested, *counts)
        print_table(console, f"{len(tasks[:limit])} tasks with the labels that are most likely wrong", table)
    if found.left_out:
        print_line(console, f"not searched: {len(found.left_out)} tasks")
        for line in found.left_out[:limit]:
            print_line(console, f"  {line}")
        print_remaining(console, len(found.left_out) - limit, in_json=False)
    if found.no_images:
        print_line(console, f"no names of images: {found.no_images}")


def name_sample(suspect: Suspect) -> str:
    """Returns the name of a suspect's image, or else of its sample."""
    return suspect.image or f"{suspect.split} {suspect.sample}"
