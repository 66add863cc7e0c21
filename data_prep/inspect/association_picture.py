"""A picture of how strongly the labels of tasks are associated."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

MAX_NAMES = 60  # more do not fit beside the picture


def draw_picture(values: np.ndarray, names: Sequence[str], path: Path) -> None:
    """Draws the association of all pairs of tasks, shape `(num_tasks, num_tasks)`, with similar tasks side by side."""
    from matplotlib.figure import Figure
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    order = np.arange(len(names))
    if len(names) > 2:
        distances = 1 - np.nan_to_num(values)
        np.fill_diagonal(distances, 0)
        order = leaves_list(linkage(squareform(distances, checks=False), method="average"))
    side = min(4 + 0.14 * len(names), 14)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.add_subplot()
    picture = axes.imshow(values[np.ix_(order, order)], vmin=0, vmax=1, cmap="magma", interpolation="nearest")
    figure.colorbar(picture, label="bias-corrected Cramér's V of the labels")
    if len(names) <= MAX_NAMES:
        shown = [names[i].replace("$", r"\$") for i in order.tolist()]
        axes.set_xticks(range(len(names)), shown, rotation=90, fontsize=7)
        axes.set_yticks(range(len(names)), shown, fontsize=7)
    else:
        axes.set_xlabel(f"{len(names)} tasks, similar ones side by side")
    figure.savefig(path, dpi=120)
