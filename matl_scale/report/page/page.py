"""The page: one HTML file that opens without a network and requests nothing.

Names of runs, tasks and classes are arbitrary text. Jinja escapes them in HTML and in the JSON that report.js reads; `figure.py`
escapes them for Plotly; and the page's content security policy lets no script run but its own.
"""

import base64
import gzip
import hashlib
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from matl_scale.errors import InputError, reason_of
from matl_scale.metrics.names import SUMMARIES
from matl_scale.report.comparison.results import METHOD, Results
from matl_scale.report.facts import collect_facts
from matl_scale.report.page.comparison_section import build_comparison_section
from matl_scale.report.page.run_section import build_run_section
from matl_scale.report.page.seed_section import build_seed_section
from matl_scale.report.page.suspect_section import build_suspect_section
from matl_scale.report.page.table import format_cell
from matl_scale.storage.files import write_text

TEMPLATES = Path(__file__).parent
MAX_RUNS = 8  # with sections of their own: about 500 kB each at 1,000 tasks


def write_page(path: Path, results: Results, task_patterns: Sequence[str]) -> None:
    """Writes the page. Runs are shown with the tasks that match the patterns; with all if there are none. The facts of a
    single run, if they are among the results, are those of these tasks.

    Raises:
        InputError: The file cannot be written, or a pattern matches no task.
    """
    text = render(
        "report.html.j2",
        title=", ".join(run.name for run in results.runs),
        runs=[
            build_run_section(results.facts or collect_facts(run, results.split, task_patterns, results.min_count))
            for run in results.runs[:MAX_RUNS]
        ],
        runs_left_out=[run.name for run in results.runs[MAX_RUNS:]],
        comparisons=[build_comparison_section(comparison) for comparison in results.comparisons],
        method=METHOD,
        summary_labels=list(SUMMARIES.values()),
        seeds=None if results.spread is None else build_seed_section(results.spread),
        suspects=None if results.suspects is None else build_suspect_section(results.runs[0], results.suspects),
    )
    try:
        write_text(path, text)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {reason_of(error, 'Choose another --out.')}") from error


def render(template: str, **content: Any) -> str:
    """Fills a template that extends `layout.html.j2`, whose `title` is among the content."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    environment.globals["format_cell"] = format_cell
    script = (TEMPLATES / "report.js").read_text(encoding="utf-8")
    return environment.get_template(template).render(
        made=f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC",
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        style=(TEMPLATES / "report.css").read_text(encoding="utf-8"),
        table_style=read_bundle("dt_bundle.css"),
        table_library=compress(read_bundle("dt_bundle.js")),
        plot_library=compress(get_plotlyjs()),
        **content,
    )


def read_bundle(name: str) -> str:
    """Returns a file of DataTables, which itables carries. Importing itables would import pandas, which takes a second."""
    spec = find_spec("itables")
    assert spec is not None
    assert spec.submodule_search_locations
    return (Path(spec.submodule_search_locations[0]) / "html" / name).read_text(encoding="utf-8")


def compress(library: str) -> str:
    """Compresses a library to a third of its size; no text in the result can end the element that contains it."""
    return base64.b64encode(gzip.compress(library.encode(), mtime=0)).decode()
