"""The answer as a picture: variants as dots with intervals over seeds, and the curve if something is varied."""

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from matl_scale.display import printable, show_name
from matl_scale.errors import InputError, reason_of
from matl_scale.report.sweep.results import Curve, SweepResults
from matl_scale.storage.files import write_atomic
from matl_scale.text import count_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KINDS = (".png", ".svg")
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe and Ito's, as on the page
BEST, ALIKE, WORSE = "#009e73", "#0072b2", "#8a8f98"
DOTS = {"best": BEST, "cannot tell": ALIKE, "worse": WORSE}
LEGEND = {"best": "highest", "cannot tell": "cannot be told apart from it", "worse": "lower beyond chance"}
MAX_NAME_WIDTH = 32
LOG_SPAN = 8  # an axis is logarithmic if its largest value is more times the smallest


def write_picture(path: Path, results: SweepResults) -> None:
    """Draws the picture, as PNG or SVG by the file's name.

    Raises:
        InputError: The file cannot be written.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    height = 1.4 + 0.17 * sum(1 + break_name(each.name).count("\n") + 1 for each in results.variants)
    curve = results.curves[0] if results.curves else None
    with rc_context({"font.size": 9, "svg.hashsalt": "matl_scale", "text.parse_math": False}):
        figure = Figure(figsize=(10 if curve else 7, max(height, 3.4 if curve else 2.2)), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(1, 2 if curve else 1, squeeze=False)[0]
        draw_dots(axes[0], results)
        if curve:
            draw_curve(axes[1], curve, results)
        kind = path.suffix[1:].lower()
        metadata: dict[str, Any] = {"Date": None} if kind == "svg" else {}
        try:
            write_atomic(path, lambda partial: figure.savefig(partial, dpi=160, format=kind, metadata=metadata))
        except OSError as error:
            raise InputError(f"{path} cannot be written: {reason_of(error, 'Choose another --picture.')}") from error


def draw_dots(axes: "Axes", results: SweepResults) -> None:
    """Draws the figure of every variant with its interval."""
    variants = results.variants
    for standing, color in DOTS.items():
        chosen = [i for i, each in enumerate(variants) if each.standing == standing]
        if chosen:
            dots = axes.errorbar(
                [variants[i].macro for i in chosen],
                chosen,
                xerr=[np.nan_to_num(variants[i].half_width) for i in chosen],
                fmt="o",
                color=color,
                markersize=7,
                elinewidth=2,
                label=LEGEND[standing],
                zorder=3,
            )
            dots.lines[0].set_clip_on(False)  # a dot at the end of the axis is shown whole
    axes.set_yticks(range(len(variants)), [break_name(each.name) for each in variants])
    axes.set_ylim(len(variants) - 0.5, -0.5)
    axes.set_xlabel(f"{results.metric_label} on {results.split}, mean over {count_of(len(results.tasks), 'task')}")
    axes.set_xlim(*inside_scale(*axes.get_xlim()))
    tidy(axes, "x")
    if len(variants) > 1:
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False, fontsize=8, handletextpad=0.3)


def draw_curve(axes: "Axes", curve: Curve, results: SweepResults) -> None:
    """Draws the figure against what is varied, and the variants in which it is not varied as levels."""
    for i, line in enumerate(curve.lines):
        color, y, widths = COLORS[i % len(COLORS)], np.array(line.y), np.nan_to_num(line.half_widths)
        axes.fill_between(line.x, y - widths, y + widths, color=color, alpha=0.15, linewidth=0)
        axes.plot(line.x, y, "o-", color=color, label=break_name(line.name))
    for i, (name, level) in enumerate(curve.levels.items(), start=len(curve.lines)):
        axes.axhline(level, color=COLORS[i % len(COLORS)], linestyle=":", label=break_name(name))
    values = sorted({x for line in curve.lines for x in line.x})
    if is_logarithmic(values):
        axes.set_xscale("log")
    axes.set_xticks(values, [f"{value:g}" for value in values])
    axes.minorticks_off()
    axes.set_xlabel(show_name(curve.key))
    axes.set_ylabel(results.metric_label)
    axes.set_ylim(*inside_scale(*axes.get_ylim()))
    tidy(axes, "both")
    axes.legend(frameon=False, fontsize=8)


def break_name(name: str) -> str:
    """Returns the name of a variant in lines: if it was cut, two could look the same."""
    return "\n".join(textwrap.wrap(printable(name), MAX_NAME_WIDTH, break_on_hyphens=False))


def inside_scale(low: float, high: float) -> tuple[float, float]:
    """Returns the ends of an axis without what is below 0 or above 1, where none of the metrics can be."""
    return max(low, 0.0), min(high, 1.0)


def tidy(axes: "Axes", grid: str) -> None:
    axes.grid(axis=grid, color="#e3e6ea", linewidth=0.8)  # type: ignore[arg-type]
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def is_logarithmic(values: list[float]) -> bool:
    """Returns whether ascending values are shown on a logarithmic axis."""
    return values[0] > 0 and values[-1] > LOG_SPAN * values[0]
