"""The routing section of the page: how much of the trunk tasks share, beside the association of their labels."""

from dataclasses import dataclass

import numpy as np
import yaml

from matl_scale.data.shards.label_association import associate
from matl_scale.errors import InputError
from matl_scale.report.mask_overlap import LayerUsage, mask_overlap, measure_usage, read_masks
from matl_scale.report.page.figure import Figure, axis, scatter
from matl_scale.report.page.table import Cell, Column, Table, rounded
from matl_scale.report.shard_set import open_shard_set
from matl_scale.runs.history import RunHistory

MAX_POINTS = 1500  # pairs of tasks in the figure (drawn without WebGL, which the page forbids); numbers count all pairs
MIN_PAIRS = 3  # for a rank correlation


@dataclass(frozen=True, kw_only=True)
class RoutingSection:
    """What the template shows of a run's routing."""

    paragraphs: list[str]
    figures: list[Figure]
    table: Table


def build_routing_section(run: RunHistory, tasks: list[str]) -> RoutingSection | None:
    """Builds the section from the names of all tasks, in the run's order; None for a run that stored no masks."""
    masks = read_masks(run.folder)
    if masks is None:
        return None
    layers, pairs = measure_usage(masks), np.tril_indices(len(tasks), -1)
    overlap, matrix = mask_overlap(masks)[pairs], label_association(run, tasks)
    association = None if matrix is None else matrix[pairs]
    figures = [draw_usage(layers)]
    if association is not None and len(association):
        figures.append(draw_pairs(overlap, association))
    paragraphs = [*describe_usage(layers, overlap), *describe_association(overlap, association)]
    return RoutingSection(paragraphs=paragraphs, figures=figures, table=build_layer_table(layers))


def label_association(run: RunHistory, tasks: list[str]) -> np.ndarray | None:
    """Returns the bias-corrected Cramér's V of the labels of all pairs of tasks; None if the shard set or a task is gone."""
    try:
        manifest = open_shard_set(run, run.config["data"]["version"])
        task_ids = [manifest.task_names.index(name) for name in tasks]
    except (InputError, ValueError, OSError, KeyError, TypeError, yaml.YAMLError):
        return None
    return associate(manifest)[np.ix_(task_ids, task_ids)]


def describe_usage(layers: list[LayerUsage], overlap: np.ndarray) -> list[str]:
    """Says how many units tasks have, and have in common; `overlap` has shape `(num_pairs,)`."""
    units, unused = sum(layer.units for layer in layers), sum(layer.unused for layer in layers)
    share = sum(layer.active for layer in layers) / units
    texts = [f"A task has {share:.1%} of the trunk's {units:,} units. {unused:,} units serve no task."]
    if len(overlap):
        texts.append(
            f"Two tasks have {overlap.mean():.1%} of their units in common on average, {overlap.min():.1%} to "
            f"{overlap.max():.1%}; independent draws would give {share:.1%}."
        )
    return texts


def describe_association(overlap: np.ndarray, association: np.ndarray | None) -> list[str]:
    """Says whether tasks whose labels are associated share more units; both arrays have shape `(num_pairs,)`."""
    if not len(overlap):
        return []
    if association is None:
        return ["The association of labels is unknown: the shard set is no longer there, or has other tasks now."]
    known = np.isfinite(association)
    if known.sum() < MIN_PAIRS or np.ptp(overlap[known]) == 0 or np.ptp(association[known]) == 0:
        return ["Overlap and labels cannot be compared: all pairs are alike, or too few have labels of both tasks."]
    from scipy.stats import spearmanr  # slow to import

    rank = spearmanr(overlap[known], association[known]).statistic
    return [
        f"Rank correlation of overlap and label association (bias-corrected Cramér's V) over {known.sum():,} pairs: {rank:+.3f}. "
        "Masks that are drawn at random do not depend on labels: expect about 0."
    ]


def draw_usage(layers: list[LayerUsage]) -> Figure:
    """Draws how many units serve how many tasks, over all layers."""
    counts = np.bincount(np.concatenate([layer.tasks_per_unit for layer in layers]))
    first = int(np.flatnonzero(counts)[0])
    bars = {
        "type": "bar",
        "x": list(range(first, len(counts))),
        "y": counts[first:].tolist(),
        "hovertemplate": "%{x} tasks: %{y} units<extra></extra>",
    }
    layout = {"xaxis": axis("tasks that a unit serves"), "yaxis": axis("units")}
    return Figure(title="Units by the number of tasks they serve", data=[bars], layout=layout, height=300, span=6)


def draw_pairs(overlap: np.ndarray, association: np.ndarray) -> Figure:
    """Draws the mask overlap of pairs of tasks against the association of their labels, both of shape `(num_pairs,)`."""
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
    titles = ("units", "active for a task", "serving no task", "fewest tasks of a unit", "most tasks of a unit")
    rows: list[list[Cell]] = []
    for layer in layers:
        tasks_per_unit = layer.tasks_per_unit
        counts = (layer.units, layer.active, layer.unused, int(tasks_per_unit.min()), int(tasks_per_unit.max()))
        rows.append([layer.name, *counts])
    return Table(columns=[Column(title="layer"), *(Column(title=title, digits=0) for title in titles)], rows=rows)
