"""The routing view: how much of the trunk tasks share, beside how much their labels go together, and what units serve."""

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from matl_scale.data.shards.label_association import associate
from matl_scale.data.shards.manifest import read_manifest
from matl_scale.errors import InputError
from matl_scale.report.page.figure import Figure, axis
from matl_scale.report.page.table import Column, Table, rounded
from matl_scale.runs.history import RunHistory
from matl_scale.runs.layout import RunFolder

MAX_POINTS = 1500  # pairs of tasks in the picture, drawn without WebGL, which the page forbids; the numbers count all
ROUTER_PREFIX = "routers."


@dataclass(frozen=True, kw_only=True)
class LayerUse:
    """One layer: its units, how many a task keeps, how many serve no task, and how many tasks each unit serves."""

    name: str
    units: int
    kept: int
    dead: int
    tasks_per_unit: np.ndarray


def read_masks(folder: Path) -> dict[str, np.ndarray] | None:
    """Returns a run's routing masks by layer, bool, shape `(num_tasks, num_units)`; None if it left none."""
    path = RunFolder(folder).masks_file
    if not path.is_file():
        return None
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            return {name.removeprefix(ROUTER_PREFIX): file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path} cannot be read: {error}. The run writes it anew when it is started again.") from error


def use_of_layers(masks: Mapping[str, np.ndarray]) -> list[LayerUse]:
    """Counts what each layer's units serve."""
    return [
        LayerUse(
            name=name,
            units=mask.shape[1],
            kept=int(mask[0].sum()),
            dead=int((~mask.any(axis=0)).sum()),
            tasks_per_unit=mask.sum(axis=0),
        )
        for name, mask in masks.items()
    ]


def mask_overlap(masks: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns which share of its units a task has in common with another, over all layers, shape `(num_tasks, num_tasks)`."""
    together = np.concatenate(list(masks.values()), axis=1).astype(np.float32)
    shared = together @ together.T
    overlap: np.ndarray = shared / np.diag(shared)[:, None]
    return overlap


def label_association(run: RunHistory, tasks: list[str]) -> np.ndarray | None:
    """Returns Cramér's V of the labels of all pairs of tasks; None if the shard set is not there any more."""
    try:
        manifest = read_manifest(run.config["data"]["path"], run.config["data"]["version"])
        numbers = [manifest.task_names.index(name) for name in tasks]
    except (InputError, ValueError, OSError, KeyError, TypeError, yaml.YAMLError):
        return None
    return associate(manifest)[np.ix_(numbers, numbers)]


def routing_section(run: RunHistory, tasks: list[str]) -> dict[str, Any] | None:
    """Returns the section of the page; None for a run that left no masks.

    Args:
        run: The run.
        tasks: Its tasks, in its order.
    """
    masks = read_masks(run.folder)
    if masks is None:
        return None
    layers, overlap = use_of_layers(masks), mask_overlap(masks)
    association = label_association(run, tasks)
    pairs = np.tril_indices(len(tasks), -1)
    figures = [draw_use(layers)]
    if association is not None and len(tasks) > 1:
        figures.append(draw_pairs(overlap[pairs], association[pairs]))
    return {
        "paragraphs": describe_routing(layers, overlap, association),
        "figures": figures,
        "tables": [layer_table(layers)],
    }


def describe_routing(layers: list[LayerUse], overlap: np.ndarray, association: np.ndarray | None) -> list[str]:
    """Says the numbers in sentences."""
    units, dead = sum(layer.units for layer in layers), sum(layer.dead for layer in layers)
    share = sum(layer.kept for layer in layers) / units
    texts = [f"A task keeps {share:.1%} of the trunk's {units:,} units. {dead:,} units serve no task."]
    pairs = np.tril_indices(len(overlap), -1)
    if not len(pairs[0]):
        return texts
    shared = overlap[pairs]
    texts.append(
        f"Two tasks have {shared.mean():.1%} of their units in common on average, {shared.min():.1%} to {shared.max():.1%}; "
        f"independent draws would give {share:.1%}."
    )
    if association is None:
        return [
            *texts,
            "How labels go together is not known: the shard set is not there any more, or has other tasks now.",
        ]
    known = np.isfinite(association[pairs])
    if known.sum() < 3 or np.ptp(shared[known]) == 0 or np.ptp(association[pairs][known]) == 0:
        return [
            *texts,
            "Overlap and labels cannot be compared: all pairs are alike, or too few carry labels of both tasks.",
        ]
    from scipy.stats import spearmanr  # slow to import

    rank = spearmanr(shared[known], association[pairs][known]).statistic
    texts.append(
        f"Rank correlation of overlap and label association (Cramér's V) over {known.sum():,} pairs: {rank:+.3f}. Masks that are "
        "drawn at random know nothing of labels: expect about 0."
    )
    return texts


def draw_use(layers: list[LayerUse]) -> Figure:
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
    """Draws pairs of tasks: what their masks have in common against how their labels go together."""
    known = np.flatnonzero(np.isfinite(association))
    chosen = known[np.unique(np.linspace(0, len(known) - 1, min(len(known), MAX_POINTS)).astype(int))]
    points = {
        "type": "scatter",
        "mode": "markers",
        "x": rounded(association[chosen], 4),
        "y": rounded(overlap[chosen], 4),
        "marker": {"size": 4, "opacity": 0.4},
        "hovertemplate": "V %{x:.3f}, overlap %{y:.3f}<extra></extra>",
    }
    layout = {"xaxis": axis("Cramér's V of the labels"), "yaxis": axis("share of units in common")}
    part = "" if len(chosen) == len(known) else f", {len(chosen):,} of {len(known):,} pairs"
    return Figure(
        title=f"Mask overlap against label association{part}", data=[points], layout=layout, height=300, span=6
    )


def layer_table(layers: list[LayerUse]) -> Table:
    """Builds the table of layers."""
    columns = [Column(title="layer")]
    for title in ("units", "kept by a task", "serving no task", "fewest tasks of a unit", "most tasks of a unit"):
        columns.append(Column(title=title, digits=0))
    rows: list[Any] = [
        [
            layer.name,
            layer.units,
            layer.kept,
            layer.dead,
            int(layer.tasks_per_unit.min()),
            int(layer.tasks_per_unit.max()),
        ]
        for layer in layers
    ]
    return Table(columns=columns, rows=rows)
