"""The answer of a sweep in a terminal: the paragraph, variants, curves, and tasks."""

from collections import Counter
from collections.abc import Sequence

from rich.console import Console

from matl_scale.display import show_name
from matl_scale.report.sweep.as_text import describe_searches, format_spread, variant_cells, variant_titles
from matl_scale.report.sweep.results import METHOD, Curve, Losses, SweepResults, VariantResult
from matl_scale.report.terminal.console import build_table, format_value, print_line, print_remaining, print_table
from matl_scale.text import count_of

STYLES = {"best": "green", "cannot tell": "", "worse": "dim"}
CANNOT_TELL = "cannot tell"


def print_sweep(console: Console, results: SweepResults, limit: int) -> None:
    """Prints the answer and what it is made of; lists have at most `limit` entries."""
    print_line(
        console, f"{results.name}: {count_of(len(results.variants), 'variant')}, {count_of(len(results.tasks), 'task')}"
    )
    print_line(console, results.answer.text)
    print_variants(
        console, results, results.variants, f"means over {count_of(len(results.tasks), 'task')} and the seeds"
    )
    if results.shared is not None:
        number, served = results.shared.num_tasks, ", ".join(show_name(name) for name in results.shared.partial)
        title = f"means over the {count_of(number, 'task')} that all variants have ({served}: not all tasks)"
        print_variants(console, results, results.shared.variants, title)
    if results.tune:
        print_line(console, f"settings found by {count_of(results.tune, 'trial')} for each variant")
        for line in describe_searches(results):
            print_line(console, f"  {line}")
    for curve in results.curves:
        print_curve(console, curve, results)
    print_tasks(console, results, limit)
    print_losses(console, results.losses, limit)
    if results.unfinished:
        print_line(console, f"runs without figures: {len(results.unfinished)}")
        for entry in results.unfinished[:limit]:
            print_line(console, f"  {entry.run}: {entry.reason}")
        print_remaining(console, len(results.unfinished) - limit)
    for note in [*results.notes, METHOD]:
        print_line(console, note)


def print_variants(console: Console, results: SweepResults, variants: Sequence[VariantResult], title: str) -> None:
    table = build_table(*variant_titles(results), fold=True)
    for variant in variants:
        table.add_row(*variant_cells(variant, results), style=STYLES[variant.standing])
    print_table(console, f"variants on {results.split}, {title}", table)


def print_curve(console: Console, curve: Curve, results: SweepResults) -> None:
    print_line(console, f"{results.metric_label} against {curve.key}")
    for line in curve.lines:
        points = zip(line.x, line.y, line.half_widths, strict=True)
        print_line(
            console, f"  {line.name}: {', '.join(f'{x:g} → {format_spread(y, width)}' for x, y, width in points)}"
        )


def print_tasks(console: Console, results: SweepResults, limit: int) -> None:
    """Prints for how many tasks each variant is best beyond chance, and tasks of which that can be told."""
    told = [task for task in results.tasks if not task.tied]
    counts = Counter(task.best for task in told)
    listed = [f"{show_name(name)} {number}" for name, number in counts.most_common()]
    rest = len(results.tasks) - len(told)
    print_line(console, f"best variant of each task: {', '.join([*listed, f'{CANNOT_TELL} {rest}'])}")
    if not told or len(results.variants) < 2:
        return
    table = build_table("task", *(variant.name for variant in results.variants), "best")
    for task in told[:limit]:
        table.add_row(task.task, *(format_value(value, ".3f") for value in task.values), task.best)
    print_table(console, "tasks with a best variant beyond chance", table)
    print_remaining(console, len(told) - limit)


def print_losses(console: Console, losses: Losses, limit: int) -> None:
    if not losses.known:
        return
    print_line(console, f"{losses.title}: {len(losses.tasks)}")
    for loss in losses.tasks[:limit]:
        difference = format_spread(loss.difference, loss.half_width, signed=True)
        print_line(console, f"  {show_name(loss.task)}: {difference} with {show_name(loss.variant)}")
    print_remaining(console, len(losses.tasks) - limit)
