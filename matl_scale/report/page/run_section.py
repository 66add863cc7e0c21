"""What the page shows of one run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import yaml

from matl_scale.metrics.names import MAIN_METRIC_LABELS
from matl_scale.report.facts import RunFacts, collect_facts
from matl_scale.report.page.figure import Figure
from matl_scale.report.page.history_figures import (
    draw_heatmap,
    draw_loss,
    draw_resources,
    draw_summaries,
    draw_tasks,
)
from matl_scale.report.page.routing_section import RoutingSection, build_routing_section
from matl_scale.report.page.run_summary import build_overview, build_short_lists, build_tiles, list_origin
from matl_scale.report.page.table import Table
from matl_scale.report.page.task_figures import draw_distribution, draw_scatters
from matl_scale.report.page.task_table import build_task_table, explain_columns
from matl_scale.report.page.tile import ShortList, Tile
from matl_scale.report.page.worst_tasks import WorstTasks, find_worst_tasks
from matl_scale.runs.history import RunHistory
from matl_scale.runs.layout import RunFolder


@dataclass(frozen=True, kw_only=True)
class RunSection:
    """What the template shows of one run."""

    name: str  # the run's name
    origin: list[tuple[str, str]]  # what was evaluated, on which data and when: pairs of a term and a text
    tiles: list[Tile]  # the numbers to read first
    overview: list[tuple[str, list[str]]]  # the summaries of the main metrics, a row for each metric
    short_lists: list[ShortList]  # the few tasks to look at first
    table: Table  # the table of tasks
    table_remark: str  # what some of its columns mean
    figures: Mapping[str, list[Figure]]  # all figures, by the heading above them
    worst: WorstTasks  # the worst tasks with samples
    routing: RoutingSection | None  # the section on routing; None if the run stored no masks
    config: str  # the text of its config file; empty if there is none
    about: str  # the data and environment of the run, as text; empty if the run does not say


def build_run_section(run: RunHistory, split: str, task_patterns: Sequence[str]) -> RunSection:
    """Builds what is shown of one run. The routing is that of all tasks, whatever the patterns."""
    facts = collect_facts(run, split, task_patterns)
    about = {key: run.about[key] for key in ("data", "environment") if key in run.about}
    return RunSection(
        name=run.name,
        origin=list_origin(facts),
        tiles=build_tiles(facts),
        overview=build_overview(facts),
        short_lists=build_short_lists(facts),
        table=build_task_table(facts),
        table_remark=explain_columns(facts),
        figures=build_run_figures(facts),
        worst=find_worst_tasks(facts),
        routing=build_routing_section(run, run.latest(split).tasks),
        config=read_config_text(run),
        about=yaml.safe_dump(about, allow_unicode=True, sort_keys=False) if about else "",
    )


def build_run_figures(facts: RunFacts) -> dict[str, list[Figure]]:
    """Builds all figures of a run, by the heading above them."""
    return {
        "Over tasks": [*(draw_distribution(facts, metric) for metric in MAIN_METRIC_LABELS), *draw_scatters(facts)],
        "Over time": [draw_heatmap(facts), *draw_summaries(facts), *draw_loss(facts), *draw_tasks(facts)],
        "Time, data and memory": draw_resources(facts),
    }


def read_config_text(run: RunHistory) -> str:
    """Returns the text of a run's config file; an empty text if there is none."""
    path = RunFolder(run.folder).config_file
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
