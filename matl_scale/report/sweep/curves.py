"""Curves of the figure over what a sweep varies: σ, the number of routes or tasks, or any other number."""

import math
import re
from collections.abc import Sequence
from typing import Any

from matl_scale.report.sweep.results import Curve, CurveLine, VariantResult

ROUTES_ARM = re.compile(r"k(\d+)")  # an arm with that many routes


def draw_curves(variants: Sequence[VariantResult]) -> list[Curve]:
    """Returns a curve for each key that is varied in numbers. If nothing is varied, the number of routes of the arms `kN`."""
    keys = dict.fromkeys(key for variant in variants for key in variant.point)
    curves = [curve for key in keys if (curve := curve_over(key, variants))]
    return curves or [curve for curve in [curve_over_routes(variants)] if curve]


def curve_over(key: str, variants: Sequence[VariantResult]) -> Curve | None:
    """Returns the curve over a varied key, with a line for each arm and each setting of the other varied keys; None if no line
    has two points."""
    lines: dict[str, list[tuple[float, VariantResult]]] = {}
    for variant in variants:
        x = as_number(variant.point.get(key))
        if x is not None:
            others = [f"{name}={value}" for name, value in variant.point.items() if name != key]
            lines.setdefault(" ".join([variant.arm, *others]), []).append((x, variant))
    levels = {variant.name: variant.macro for variant in variants if key not in variant.point}
    return build_curve(key, lines, levels)


def curve_over_routes(variants: Sequence[VariantResult]) -> Curve | None:
    """Returns the curve over the number of routes, from the names of arms in which nothing is varied."""
    found = [(ROUTES_ARM.fullmatch(variant.arm), variant) for variant in variants if not variant.point]
    points = [(float(match[1]), variant) for match, variant in found if match]
    return build_curve("routes", {"kN": points}, {each.name: each.macro for match, each in found if not match})


def build_curve(
    key: str, lines: dict[str, list[tuple[float, VariantResult]]], levels: dict[str, float]
) -> Curve | None:
    built = [build_line(name, points) for name, points in lines.items() if len({x for x, _ in points}) > 1]
    return Curve(key=key, lines=built, levels=levels) if built else None


def build_line(name: str, points: Sequence[tuple[float, VariantResult]]) -> CurveLine:
    ordered = sorted(points, key=lambda point: point[0])
    return CurveLine(
        name=name,
        x=[x for x, _ in ordered],
        y=[variant.macro for _, variant in ordered],
        half_widths=[variant.half_width for _, variant in ordered],
    )


def as_number(value: Any) -> float | None:
    """Returns a varied value as a number; None if it is none."""
    if isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
