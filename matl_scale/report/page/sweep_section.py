"""What the page shows of a sweep: the answer, its variants, figures, the best variant of each task, and who loses."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from matl_scale.errors import InputError, reason_of
from matl_scale.report.page.page import render
from matl_scale.report.page.sweep_figures import draw_curve_figure, draw_variants
from matl_scale.report.page.table import (
    MAX_LISTED,
    Cell,
    Column,
    Mark,
    ShortList,
    Table,
    Tile,
    format_number,
    rounded,
    shorten_name,
)
from matl_scale.report.sweep.as_text import format_search, format_seeds, format_settings, format_spread
from matl_scale.report.sweep.results import METHOD, Standing, SweepResults, VariantResult
from matl_scale.storage.files import write_text
from matl_scale.text import count_of

MARKS: dict[Standing, Mark] = {"best": "better", "worse": "worse", "cannot tell": ""}


def write_sweep_page(path: Path, results: SweepResults) -> None:
    """Writes the page of a sweep.

    Raises:
        InputError: The file cannot be written.
    """
    text = render(
        "sweep.html.j2",
        title=results.name,
        results=results,
        tiles=build_tiles(results),
        variants=build_variant_table(results, results.variants),
        shared=None if results.shared is None else build_variant_table(results, results.shared.variants),
        costs=build_cost_table(results),
        short_lists=[list_losses(results), list_best(results)],
        figures=[draw_variants(results), *(draw_curve_figure(curve, results) for curve in results.curves)],
        tasks=build_task_table(results),
        method=METHOD,
    )
    try:
        write_text(path, text)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {reason_of(error, 'Choose another --out.')}") from error


def build_tiles(results: SweepResults) -> list[Tile]:
    """Returns what to use, how good it is, and what it is judged by."""
    answer, shown = results.answer, results.variant(results.answer.use or results.answer.best)
    tied = sum(each.standing == "cannot tell" for each in results.variants)
    told = sum(not task.tied for task in results.tasks)
    return [
        Tile(
            label="use" if answer.use else "highest, but nothing can be told",
            value=shorten_name(shown.name),
            detail="better than all others beyond chance"
            if answer.certain
            else f"cannot be told apart: {tied} of the others",
            mark="better" if answer.certain else "",
        ),
        Tile(
            label=f"its mean {results.metric_label}",
            value=format_number(shown.macro),
            detail=f"on {results.split}, over {count_of(len(results.tasks), 'task')} and {count_of(len(shown.seeds), 'seed')}",
        ),
        Tile(
            label="budget of each training",
            value=results.budget.rsplit(" ", 1)[0],
            detail=results.budget.rsplit(" ", 1)[1],
        ),
        Tile(label="tasks with a best variant beyond chance", value=f"{told:,}", detail=f"of {len(results.tasks):,}"),
        Tile(
            label=f"tasks that lose with {shorten_name(results.losses.of)}",
            value=f"{len(results.losses.tasks):,}" if results.losses.known else "?",
            mark="worse" if results.losses.tasks else "",
        ),
    ]


def build_variant_table(results: SweepResults, variants: Sequence[VariantResult]) -> Table:
    """Builds a table of variants."""
    has_precision = results.has_precision_beside
    precision = [Column(title="average precision", digits=3, hint="mean over tasks and seeds")] if has_precision else []
    columns = [
        Column(title="variant"),
        Column(title=results.metric_label, digits=3, hint="mean over tasks and seeds"),
        Column(title="±", digits=3, hint="95 % interval over seeds, without what a seed does to all variants"),
        Column(
            title="behind the best",
            digits=3,
            hint="difference to the variant with the highest figure, on the same seeds",
        ),
        Column(title="±", digits=3, hint="interval of that difference, for all pairs of variants at once"),
        Column(title="p", digits=4, least=0.0001, hint="of Tukey's test of all pairs"),
        *precision,
        Column(title="10th percentile", digits=3, hint="over tasks"),
        Column(title="worst", digits=3),
        Column(title="better", digits=0, hint=f"tasks better than with {results.reference} beyond chance"),
        Column(title="worse", digits=0, hint=f"tasks worse than with {results.reference} beyond chance"),
        Column(title="worst task"),
    ]
    rows: list[list[Cell]] = []
    for each in variants:
        behind = each.behind
        others = [None] * 3 if each.standing == "best" else [behind.value, behind.half_width, four_figures(behind.p)]
        precisions = [each.average_precision] if has_precision else []
        means = rounded_cells(*precisions, each.p10, each.worst, digits=4)
        figure, width, difference, margin = rounded_cells(each.macro, each.half_width, *others[:2], digits=4)
        changes = [each.better, each.worse]
        rows.append([each.name, figure, width, difference, margin, others[2], *means, *changes, each.worst_task])
    return Table(columns=columns, rows=rows, marks={1: [MARKS[each.standing] for each in variants]})


def build_cost_table(results: SweepResults) -> Table:
    """Builds the table of what each variant costs."""
    columns = [
        Column(title="variant"),
        Column(title="parameters", digits=0, hint="of trunk and heads"),
        Column(title="compute per label", digits=0, hint="multiply-adds of training, forward and backward, per label"),
        Column(title="images/s", digits=0, hint="answered for all tasks, while evaluating"),
        Column(title="passes", digits=2, hint="over the labels"),
        Column(title="seeds"),
        Column(title="trials", hint="of the search for its settings"),
        Column(title="tuned"),
    ]
    rows: list[list[Cell]] = []
    for each in results.all_variants:
        cost, tuned = each.cost, format_settings(each.tuned)
        numbers = rounded_cells(cost.parameters, cost.compute_per_label, cost.images_per_s, cost.passes, digits=2)
        rows.append([each.name, *numbers, format_seeds(each), format_search(each.search), tuned])
    return Table(columns=columns, rows=rows)


def four_figures(p: float) -> float | None:
    return float(f"{p:.4g}") if np.isfinite(p) else None


def rounded_cells(*values: float | None, digits: int) -> list[float | None]:
    """Rounds numbers; what is not known becomes an empty cell."""
    return rounded(np.array([np.nan if value is None else value for value in values], dtype=float), digits)


def build_task_table(results: SweepResults) -> Table:
    """Builds the table of all tasks: first those that lose, then those with a best variant beyond chance, then the others."""
    columns = [
        Column(title="task"),
        *(Column(title=shorten_name(each.name), digits=3) for each in results.variants),
        Column(title="best", hint="beyond chance"),
        Column(title="cannot be told apart", hint="the highest, and those that it is not better than beyond chance"),
        Column(
            title="loses",
            digits=3,
            signed=True,
            hint=f"what it loses with {results.losses.of}, if that is beyond chance",
        ),
    ]
    lost = {loss.task: loss.difference for loss in results.losses.tasks}
    order = sorted(results.tasks, key=lambda task: (-lost.get(task.task, 0.0), bool(task.tied)))
    rows: list[list[Cell]] = [
        [
            task.task,
            *rounded(np.array(task.values)),
            "" if task.tied else task.best,
            ", ".join([task.best, *task.tied]) if task.tied else "",
            *rounded_cells(lost.get(task.task), digits=3),
        ]
        for task in order
    ]
    return Table(
        columns=columns,
        rows=rows,
        marks={len(columns) - 1: ["worse" if task.task in lost else "" for task in order]},
        chosen=[i for i, task in enumerate(order) if not task.tied or task.task in lost],
        choice="only tasks of which something can be told",
    )


def list_losses(results: SweepResults) -> ShortList:
    """Returns the tasks that lose most."""
    losses = results.losses
    rows = [
        (loss.task, format_spread(loss.difference, loss.half_width, signed=True), loss.variant)
        for loss in losses.tasks[:MAX_LISTED]
    ]
    more = len(losses.tasks) - MAX_LISTED
    nothing = "None." if losses.known else "Nothing can be told."
    title = f"{losses.title[:1].upper()}{losses.title[1:]}: {len(losses.tasks):,}"
    return ShortList(
        title=title, rows=rows, remark=f"{more:,} more in the table." if more > 0 else "" if rows else nothing
    )


def list_best(results: SweepResults) -> ShortList:
    """Returns for how many tasks each variant is the best."""
    told = [task.best for task in results.tasks if not task.tied]
    rows = [(each.name, f"{told.count(each.name):,}", "tasks") for each in results.variants if each.name in told]
    rows.append(("cannot tell", f"{len(results.tasks) - len(told):,}", "tasks"))
    return ShortList(title="Best variant of each task, beyond chance", rows=rows)
