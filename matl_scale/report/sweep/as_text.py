"""How the figures of a variant are written, in a terminal, on the page and in Markdown."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from matl_scale.display import show_name
from matl_scale.report.sweep.results import SweepResults, VariantResult
from matl_scale.report.terminal.console import format_value
from matl_scale.runs.sweep_folder import SearchOutcome

PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def format_amount(value: float) -> str:
    """Returns a large number with three digits, as `1.25M`; an unknown one is empty."""
    if not np.isfinite(value):
        return ""
    value = float(f"{value:.3g}")  # 999,600 is 1M
    factor, prefix = next(((factor, prefix) for factor, prefix in PREFIXES if value >= factor), (1.0, ""))
    return f"{value / factor:.3g}{prefix}"


def format_spread(value: float, half_width: float, signed: bool = False) -> str:
    """Returns a value with its interval, as `0.654 ± 0.012`; without it if one seed says nothing."""
    if not np.isfinite(value):
        return ""
    text = f"{value:{'+' if signed else ''}.3f}"
    return f"{text} ± {half_width:.3f}" if np.isfinite(half_width) else text


def format_p(p: float) -> str:
    if not np.isfinite(p):
        return "?"
    return "<0.0001" if p < 1e-4 else f"{p:.4f}"


def format_changes(variant: VariantResult) -> str:
    """Returns how many tasks are better and worse than with the reference, as `12, 3`; empty for the reference itself."""
    return "" if variant.better is None else f"{variant.better:,}, {variant.worse:,}"


def format_settings(settings: Mapping[str, Any]) -> str:
    """Returns settings as `optim.lr=0.003, routing.sigma=0.5`."""
    return ", ".join(
        f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}" for key, value in settings.items()
    )


def format_search(search: SearchOutcome | None) -> str:
    """Returns how many trials a search has made and which was the best; empty if there was none, or nothing to search."""
    if search is None or not search.trials:
        return ""
    return f"best of {search.describe_trials()}: number {search.best}"


def describe_searches(results: SweepResults) -> list[str]:
    """Returns a line per variant with the settings that its search has found."""
    lines = []
    for variant in results.all_variants:
        found = format_settings(variant.tuned) or "what the rules choose"
        trials = format_search(variant.search) or "nothing to search"
        lines.append(f"{show_name(variant.name)}: {found} ({trials})")
    return lines


def format_seeds(variant: VariantResult) -> str:
    """Returns the number of finished seeds, and of how many if some are missing."""
    finished, planned = len(variant.seeds), variant.seeds_planned
    return f"{finished}" if finished == planned else f"{finished} of {planned}"


def variant_titles(results: SweepResults) -> list[str]:
    """Returns the titles of the columns of `variant_cells`."""
    precision = ["average precision"] if results.has_precision_beside else []
    against = [] if results.reference is None else [f"tasks better, worse than {results.reference}"]
    compared = [results.metric_label, "behind the best", "p", *precision, "10th percentile", "worst task", *against]
    return ["variant", *compared, "parameters", "compute per label", "images/s", "passes", "seeds"]


def variant_cells(variant: VariantResult, results: SweepResults) -> list[str]:
    """Returns the row of a variant in the table of all."""
    cost, is_best = variant.cost, variant.standing == "best"
    precision = [variant.average_precision] if results.has_precision_beside else []
    return [
        variant.name,
        format_spread(variant.macro, variant.half_width),
        "" if is_best else format_spread(variant.behind.value, variant.behind.half_width),
        "" if is_best else format_p(variant.behind.p),
        *(format_value(value, ".3f") for value in (*precision, variant.p10, variant.worst)),
        *([] if results.reference is None else [format_changes(variant)]),
        *(format_amount(value) for value in (cost.parameters, cost.compute_per_label, cost.images_per_s)),
        format_value(cost.passes, ".2f"),
        format_seeds(variant),
    ]
