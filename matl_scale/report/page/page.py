"""The page: one HTML file that opens without a network, and asks none for anything.

Names of runs, tasks and classes are arbitrary text. Jinja escapes them in HTML and in the JSON that report.js reads; Plotly's
texts are made plain in `figure.py`; and the page's content security policy lets no script run but its own.
"""

import base64
import gzip
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from matl_scale.errors import InputError
from matl_scale.metrics.names import SUMMARIES
from matl_scale.report.comparison.results import METHOD, Comparison, SeedSpread
from matl_scale.report.facts import collect_facts, select_tasks
from matl_scale.report.page.comparison_figure import draw_differences
from matl_scale.report.page.figure import Figure
from matl_scale.report.page.mask_overlap import routing_section
from matl_scale.report.page.rows import build_comparison_table, build_spread_table, build_task_table
from matl_scale.report.page.run_figures import build_run_figures
from matl_scale.report.page.summary import (
    ShortList,
    Tile,
    build_overview,
    build_short_lists,
    build_tiles,
    compare_tiles,
    describe_run,
    explain_columns,
    list_differences,
    spread_tiles,
)
from matl_scale.report.page.table import Table, format_cell
from matl_scale.report.page.worst_samples import WorstTasks, find_worst_tasks
from matl_scale.runs.history import RunHistory
from matl_scale.runs.layout import RunFolder
from matl_scale.storage.files import write_text

HERE = Path(__file__).parent
MAX_RUNS = 8  # that have sections of their own: some 500 kB each at 1,000 tasks


@dataclass(frozen=True, kw_only=True)
class RunSections:
    """What the template shows of one run.

    Attributes:
        name: Of the run.
        description: Pairs of a word and a text.
        tiles: The numbers that are read first.
        overview: Summaries of the main metrics, a row for each.
        short_lists: The few tasks to look at first.
        table: A row per task.
        table_remark: What some of its columns mean.
        figures: By heading.
        worst: The worst tasks with samples.
        routing: A section more, if there is one: `paragraphs` (texts), `figures` and `tables`.
        config: The text of its file.
        about: What it ran on.
    """

    name: str
    description: list[tuple[str, str]]
    tiles: list[Tile]
    overview: list[tuple[str, list[str]]]
    short_lists: list[ShortList]
    table: Table
    table_remark: str
    figures: Mapping[str, list[Figure]]
    worst: WorstTasks
    routing: Mapping[str, Any] | None
    config: str
    about: str


@dataclass(frozen=True, kw_only=True)
class ComparisonSection:
    """What the template shows of one comparison."""

    title: str
    content: Comparison
    tiles: list[Tile]
    short_lists: list[ShortList]
    table: Table
    figure: Figure


def write_page(
    path: Path,
    runs: Sequence[RunHistory],
    split: str,
    comparisons: Sequence[Comparison],
    spread: SeedSpread | None,
    task_patterns: Sequence[str],
) -> None:
    """Writes the page.

    Args:
        path: The file.
        runs: Each gets sections of its own.
        split: What was evaluated.
        comparisons: Between runs.
        spread: Over seeds.
        task_patterns: Which tasks are shown; all if there are none.

    Raises:
        InputError: The file cannot be written, or a pattern matches no task.
    """
    sections = [build_sections(run, split, task_patterns) for run in runs[:MAX_RUNS]]
    text = render(
        title=", ".join(run.name for run in runs),
        runs=sections,
        runs_left_out=[run.name for run in runs[MAX_RUNS:]],
        comparisons=[build_comparison(comparison) for comparison in comparisons],
        method=METHOD,
        summary_labels=list(SUMMARIES.values()),
        spread=spread,
        spread_tiles=[] if spread is None else spread_tiles(spread),
        spread_table=None if spread is None else build_spread_table(spread),
    )
    try:
        write_text(path, text)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}. Choose another --out.") from error


def build_sections(run: RunHistory, split: str, task_patterns: Sequence[str]) -> RunSections:
    """Builds what is shown of one run; its routing is that of all tasks."""
    everything = collect_facts(run, split)
    facts = select_tasks(everything, task_patterns)
    about = {key: run.about[key] for key in ("data", "environment") if key in run.about}
    return RunSections(
        name=run.name,
        description=describe_run(facts),
        tiles=build_tiles(facts),
        overview=build_overview(facts),
        short_lists=build_short_lists(facts),
        table=build_task_table(facts),
        table_remark=explain_columns(facts),
        figures=build_run_figures(facts),
        worst=find_worst_tasks(facts),
        routing=routing_section(run, everything.latest.tasks),
        config=read_config(run),
        about=yaml.safe_dump(about, allow_unicode=True, sort_keys=False) if about else "",
    )


def read_config(run: RunHistory) -> str:
    """Returns the text of a run's config; empty if it is not there."""
    path = RunFolder(run.folder).config_file
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def build_comparison(comparison: Comparison) -> ComparisonSection:
    """Builds what is shown of one comparison."""
    return ComparisonSection(
        title=("What sharing did: " if comparison.kind == "single-task" else "")
        + f"{comparison.name_b} against {comparison.name_a}",
        content=comparison,
        tiles=compare_tiles(comparison),
        short_lists=list_differences(comparison),
        table=build_comparison_table(comparison),
        figure=draw_differences(comparison),
    )


def render(**content: Any) -> str:
    """Fills the template."""
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    environment.globals["format_cell"] = format_cell
    script = (HERE / "report.js").read_text(encoding="utf-8")
    return environment.get_template("report.html.j2").render(
        made=f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC",
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        style=(HERE / "report.css").read_text(encoding="utf-8"),
        table_style=read_bundle("dt_bundle.css"),
        table_library=packed(read_bundle("dt_bundle.js")),
        plot_library=packed(get_plotlyjs()),
        **content,
    )


def read_bundle(name: str) -> str:
    """Returns a file of DataTables as itables carries it; importing itables would import pandas, which takes a second."""
    spec = find_spec("itables")
    assert spec is not None
    assert spec.submodule_search_locations
    return (Path(spec.submodule_search_locations[0]) / "html" / name).read_text(encoding="utf-8")


def packed(library: str) -> str:
    """Compresses a library: a third of the size, and no text in it can end the element that holds it."""
    return base64.b64encode(gzip.compress(library.encode(), mtime=0)).decode()
