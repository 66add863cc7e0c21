"""The routing section of the page: which tasks share a route, and how much routes share, beside how their labels go together."""

from dataclasses import dataclass

import numpy as np

from matl_scale.errors import InputError
from matl_scale.metrics.names import MAIN_METRIC, METRIC_LABELS
from matl_scale.metrics.task_metrics import defined, mean, worst_first
from matl_scale.report.mask_association import describe_association, route_association, strategy_of
from matl_scale.report.mask_moves import Stage, read_moves, summarise_moves
from matl_scale.report.mask_overlap import LayerUsage, describe_usage, mask_overlap, measure_usage, read_masks
from matl_scale.report.page.figure import Figure, axis, scatter
from matl_scale.report.page.table import Cell, Column, Table, rounded
from matl_scale.runs.history import RunHistory, TaskTable
from matl_scale.runs.routes import describe_routes
from matl_scale.text import count_of

MAX_POINTS = (
    1500  # pairs of routes in the figure (drawn without WebGL, which the page forbids); numbers count all pairs
)


@dataclass(frozen=True, kw_only=True)
class RoutingSection:
    """What the template shows of a run's routing."""

    paragraphs: list[str]
    figures: list[Figure]
    tables: list[Table]


def build_routing_section(run: RunHistory, latest: TaskTable) -> RoutingSection | None:
    """Builds the section from the last evaluation of all tasks; None for a run that stored no masks, or has none.

    Raises:
        InputError: The masks cannot be read, or are not those of the run's routes.
    """
    masks = read_masks(run.folder)
    if not masks:
        return None
    if any(len(mask) != len(run.routes) for mask in masks.values()):
        raise InputError(
            f"{run.files.masks_file} should have a row for each of the run's {len(run.routes)} routes. The run writes it again "
            "when it is restarted."
        )
    layers = measure_usage(masks)
    paragraphs = [f"{describe_routes(run.routes)}."] if run.shares_routes else []
    tables = [build_route_table(run, latest)] if run.shares_routes else []
    tables.append(build_layer_table(layers))
    if (moves := read_moves(run.folder)) is not None:
        stages = summarise_moves(moves)
        paragraphs.append(describe_moves(stages[-1]))
        tables.append(build_move_table(stages))
    if len(run.routes) == 1:
        paragraphs += [
            *describe_usage(layers, np.zeros(0)),
            "There are no masks to compare: all tasks use the same units.",
        ]
        return RoutingSection(paragraphs=paragraphs, figures=[], tables=tables)
    pairs = np.tril_indices(len(run.routes), -1)
    overlap, matrix = mask_overlap(masks)[pairs], route_association(run, latest.tasks)
    association = None if matrix is None else matrix[pairs]
    figures = [draw_usage(layers)]
    if association is not None:
        figures.append(draw_pairs(overlap, association))
    paragraphs += [*describe_usage(layers, overlap), *describe_association(overlap, association, strategy_of(run))]
    if matrix is not None and association is not None and run.shares_routes:
        paragraphs += describe_grouping(np.diag(matrix), association)
    return RoutingSection(paragraphs=paragraphs, figures=figures, tables=tables)


def describe_grouping(within: np.ndarray, between: np.ndarray) -> list[str]:
    """Says whether tasks whose labels go together share a route: `within` has the association of tasks of the same route, shape
    `(num_routes,)`, `between` that of pairs of routes."""
    if not (len(defined(within)) and len(defined(between))):
        return []
    return [
        f"Label association of two tasks: {mean(within):.3f} on the same route, {mean(between):.3f} on different ones (means "
        "over routes, and over pairs of routes)."
    ]


def draw_usage(layers: list[LayerUsage]) -> Figure:
    """Draws how many units serve how many routes, over all layers."""
    counts = np.bincount(np.concatenate([layer.routes_per_unit for layer in layers]))
    first = int(np.flatnonzero(counts)[0])
    bars = {
        "type": "bar",
        "x": list(range(first, len(counts))),
        "y": counts[first:].tolist(),
        "hovertemplate": "%{x} routes: %{y} units<extra></extra>",
    }
    layout = {"xaxis": axis("routes that a unit serves"), "yaxis": axis("units")}
    return Figure(title="Units by the number of routes they serve", data=[bars], layout=layout, height=300, span=6)


def draw_pairs(overlap: np.ndarray, association: np.ndarray) -> Figure:
    """Draws the mask overlap of pairs of routes against the association of their labels, both of shape `(num_pairs,)`."""
    known = np.flatnonzero(np.isfinite(association))
    chosen = known[np.unique(np.linspace(0, len(known) - 1, min(len(known), MAX_POINTS)).astype(int))]
    points = scatter(
        rounded(association[chosen], 4),
        rounded(overlap[chosen], 4),
        marker={"size": 4, "opacity": 0.4},
        hovertemplate="V %{x:.3f}, overlap %{y:.3f}<extra></extra>",
    )
    layout = {"xaxis": axis("bias-corrected Cramér's V of the labels"), "yaxis": axis("share of units in common")}
    title = "Mask overlap against label association"
    if len(chosen) < len(known):
        title += f", {len(chosen):,} of {len(known):,} pairs"
    return Figure(title=title, data=[points], layout=layout, height=300, span=6)


def build_layer_table(layers: list[LayerUsage]) -> Table:
    """Builds the table of layers."""
    titles = ("units", "active for a route", "serving no route", "fewest routes of a unit", "most routes of a unit")
    rows: list[list[Cell]] = []
    for layer in layers:
        served = layer.routes_per_unit
        counts = (layer.units, layer.active, layer.unused, int(served.min()), int(served.max()))
        rows.append([layer.name, *counts])
    return Table(columns=[Column(title="layer"), *(Column(title=title, digits=0) for title in titles)], rows=rows)


def describe_moves(last: Stage) -> str:
    """Says how far masks have moved."""
    return (
        f"Masks have moved {count_of(last.moves, 'time')}, the last time after step {last.step:,}: each route has tried "
        f"{last.tried:.1%} of the units. What this page says of masks otherwise is of those at the end."
    )


def build_move_table(stages: list[Stage]) -> Table:
    """Builds the table of how masks moved."""
    columns = [
        Column(title="moves", digits=0, hint="of the masks, so far"),
        Column(title="after step", digits=0),
        Column(title="units tried", digits=3, hint="share of the units that a route has or had"),
        Column(
            title="units in common", digits=3, hint="share of a route's units that another one has, mean over pairs"
        ),
        Column(title="serving no route", digits=0, hint="units; layers that share a mask count once"),
    ]
    rows: list[list[Cell]] = [
        [stage.moves, stage.step, *rounded(np.array([stage.tried, stage.overlap])), stage.unused] for stage in stages
    ]
    return Table(columns=columns, rows=rows)


def build_route_table(run: RunHistory, latest: TaskTable) -> Table:
    """Builds the table of routes, worst first, from the last evaluation of all tasks."""
    task_ids = {name: i for i, name in enumerate(latest.tasks)}
    main, served = METRIC_LABELS[MAIN_METRIC], [[task_ids[task] for task in tasks] for tasks in run.routes.values()]
    columns = [
        Column(title="route"),
        Column(title="tasks", digits=0),
        Column(title=f"mean {main}", digits=3),
        Column(title=f"worst {main}", digits=3),
        Column(title="draws", digits=0, hint="how often the route was trained"),
        Column(title="labels seen", digits=0, hint="in training, of all its tasks"),
    ]
    values = [defined(latest.metrics.values[MAIN_METRIC][tasks]) for tasks in served]
    means = np.array([mean(found) for found in values])
    lowest = np.array([found.min(initial=np.inf) for found in values])  # infinite, and so empty, if none is defined
    draws = [None if latest.draws is None else int(latest.draws[tasks[0]]) for tasks in served]
    seen = [None if latest.labels_seen is None else int(latest.labels_seen[tasks].sum()) for tasks in served]
    cells: list[list[Cell]] = [
        list(run.routes),
        [len(tasks) for tasks in served],
        [*rounded(means)],
        [*rounded(lowest)],
        [*draws],
        [*seen],
    ]
    return Table(columns=columns, rows=[[column[i] for column in cells] for i in worst_first(means)])
