"""Figures of a sweep: every variant with its interval over seeds, and curves over what is varied."""

from typing import Any

import numpy as np

from matl_scale.report.page.figure import Figure, axis, escape_markup, scatter
from matl_scale.report.page.table import rounded, shorten_name
from matl_scale.report.sweep.picture import DOTS, LEGEND, is_logarithmic
from matl_scale.report.sweep.results import Curve, SweepResults
from matl_scale.text import count_of

ROW_HEIGHT = 30  # of a variant, in pixels


def draw_variants(results: SweepResults) -> Figure:
    """Draws the figure of every variant with its interval, the first one on top."""
    traces = []
    for standing, color in DOTS.items():
        chosen = [each for each in results.variants if each.standing == standing]
        if chosen:
            widths = rounded(np.nan_to_num([each.half_width for each in chosen]), 4)
            trace = scatter(
                rounded(np.array([each.macro for each in chosen]), 4),
                [label_of(each.name) for each in chosen],
                name=LEGEND[standing],
                marker={"size": 10, "color": color},
                error_x={"type": "data", "array": widths, "color": color},
                hovertemplate="%{y}: %{x:.3f}<extra></extra>",
            )
            traces.append(trace)
    names = [label_of(each.name) for each in results.variants]
    layout = {
        "xaxis": axis(f"mean {results.metric_label} over {count_of(len(results.tasks), 'task')}"),
        "yaxis": axis("", type="category", categoryorder="array", categoryarray=names[::-1]),
        "showlegend": len(names) > 1,
    }
    height = 120 + ROW_HEIGHT * len(names)
    return Figure(title="Variants, with 95 % intervals over seeds", data=traces, layout=layout, height=height, span=12)


def draw_curve_figure(curve: Curve, results: SweepResults) -> Figure:
    """Draws a curve with a line for each arm, and the variants in which the key is not varied as levels."""
    traces: list[dict[str, Any]] = []
    values = sorted({x for line in curve.lines for x in line.x})
    for line in curve.lines:
        widths = rounded(np.nan_to_num(line.half_widths), 4)
        more = {"mode": "lines+markers", "error_y": {"type": "data", "array": widths}}
        traces.append(scatter(line.x, rounded(np.array(line.y), 4), name=label_of(line.name), **more))
    for name, level in curve.levels.items():
        ends, style = [values[0], values[-1]], {"dash": "dot"}
        traces.append(scatter(ends, [round(level, 4)] * 2, mode="lines", name=label_of(name), line=style))
    x_axis = axis(escape_markup(curve.key), tickvals=values, ticktext=[f"{value:g}" for value in values])
    layout = {
        "xaxis": x_axis | ({"type": "log"} if is_logarithmic(values) else {}),
        "yaxis": axis(results.metric_label),
        "showlegend": True,
    }
    title = f"{results.metric_label.capitalize()} against {curve.key}"
    return Figure(title=title, data=traces, layout=layout, height=340, span=6)


def label_of(name: str) -> str:
    return escape_markup(shorten_name(name))
