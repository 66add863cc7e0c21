"""What the page shows of one run."""

from typing import Any

import yaml

from matl_scale.metrics.names import MAIN_METRIC_LABELS
from matl_scale.report.facts import RunFacts
from matl_scale.report.page.figure import Figure
from matl_scale.report.page.history_figures import draw_heatmap, draw_loss, draw_resources, draw_summaries, draw_tasks
from matl_scale.report.page.routing_section import build_routing_section
from matl_scale.report.page.run_summary import build_overview, build_short_lists, build_tiles, list_origin
from matl_scale.report.page.task_figures import draw_distribution, draw_scatters
from matl_scale.report.page.task_table import build_task_table, explain_columns
from matl_scale.report.page.worst_tasks import find_worst_tasks


def build_run_section(facts: RunFacts) -> dict[str, Any]:
    """Builds what run.html.j2 shows of one run. The routing is that of all tasks, whichever the facts are of."""
    run, config_file = facts.run, facts.run.files.config_file
    about = {key: run.about[key] for key in ("data", "environment") if key in run.about}
    return {
        "name": run.name,
        "origin": list_origin(facts),
        "tiles": build_tiles(facts),
        "overview": build_overview(facts),
        "short_lists": build_short_lists(facts),
        "table": build_task_table(facts),
        "table_remark": explain_columns(facts),
        "figures": build_run_figures(facts),
        "worst": find_worst_tasks(facts),
        "routing": build_routing_section(run, run.latest(facts.latest.split)),
        "config": config_file.read_text(encoding="utf-8", errors="replace") if config_file.is_file() else "",
        "about": yaml.safe_dump(about, allow_unicode=True, sort_keys=False) if about else "",
    }


def build_run_figures(facts: RunFacts) -> dict[str, list[Figure]]:
    """Builds all figures of a run, by the heading above them."""
    return {
        "Over tasks": [*(draw_distribution(facts, metric) for metric in MAIN_METRIC_LABELS), *draw_scatters(facts)],
        "Over time": [draw_heatmap(facts), *draw_summaries(facts), *draw_loss(facts), *draw_tasks(facts)],
        "Time, data and memory": draw_resources(facts),
    }
