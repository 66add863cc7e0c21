"""The answer of a sweep as Markdown, to be kept in a repository or pasted into a discussion."""

from collections.abc import Sequence
from pathlib import Path

from matl_scale.report.markdown import escape, table
from matl_scale.report.sweep.as_text import describe_searches, format_spread, variant_cells, variant_titles
from matl_scale.report.sweep.results import Curve, SweepResults, VariantResult
from matl_scale.storage.files import write_text
from matl_scale.text import count_of


def write_markdown(path: Path, results: SweepResults) -> None:
    """Writes the paragraph, the variants, the curves, and for how many tasks another variant would be better."""
    write_text(path, "\n\n".join(build_sections(results)) + "\n")


def build_sections(results: SweepResults) -> list[str]:
    seeds = ", ".join(str(seed) for seed in results.seeds)
    tuned = f", each variant after {count_of(results.tune, 'trial')}" if results.tune else ""
    asked = f"{count_of(len(results.tasks), 'task')} on {results.split}, seeds {seeds}"
    sections = [
        escape(results.answer.text),
        f"{asked}, {results.budget} for each training{tuned}:",
        variants_table(results, results.variants),
    ]
    if results.shared is not None:
        sections += [
            f"On the {count_of(results.shared.num_tasks, 'task')} that all variants have:",
            variants_table(results, results.shared.variants),
        ]
    if results.tune:
        found = "\n".join(f"- {escape(line)}" for line in describe_searches(results))
        sections += [f"Settings found by {count_of(results.tune, 'trial')} for each variant:", found]
    sections += [curve_table(curve, results) for curve in results.curves]
    if results.losses.known:
        sections.append(f"{escape(results.losses.title)}: {len(results.losses.tasks)}")
    return sections


def variants_table(results: SweepResults, variants: Sequence[VariantResult]) -> str:
    return table(variant_titles(results), [variant_cells(variant, results) for variant in variants])


def curve_table(curve: Curve, results: SweepResults) -> str:
    """Returns a table with a row per arm and a column per value of what is varied."""
    values = sorted({x for line in curve.lines for x in line.x})
    rows = []
    for line in curve.lines:
        found = {
            x: format_spread(y, half_width) for x, y, half_width in zip(line.x, line.y, line.half_widths, strict=True)
        }
        rows.append([line.name, *(found.get(value, "") for value in values)])
    rows += [[name, *[format_spread(level, float("nan"))] * len(values)] for name, level in curve.levels.items()]
    return table([f"{results.metric_label} against {curve.key}", *(f"{value:g}" for value in values)], rows)
