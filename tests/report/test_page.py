"""The report's page, as text: what it says, what it must not contain, and how large it gets."""

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pytest

from helpers.made_up_runs import MadeUp, write_run, write_shapes
from matl_scale.errors import InputError
from matl_scale.report.comparison.results import METHOD, Comparison, Results, SeedSpread, TaskDifference
from matl_scale.report.facts import collect_facts
from matl_scale.report.page.page import write_page
from matl_scale.report.page.run_section import build_run_figures
from matl_scale.report.page.run_summary import list_origin
from matl_scale.report.page.task_table import build_task_table
from matl_scale.runs.history import RunHistory

SMALL = MadeUp(num_tasks=6, num_samples=60, num_evaluations=3)
HOSTILE = (
    "<script>window.broken = 1</script>",
    "</script><script>window.broken = 2</script>",
    "<!--<script>",
    '"><img src=x onerror="window.broken = 3">',
    "<a href='javascript:window.broken = 4'>a</a>",
    "{{ 7 * 7 }} {% raw %} %{x} $x$",
)


class Page(HTMLParser):
    """What a browser would see: elements with their attributes, and the text of each kind of element."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.json: list[object] = []
        self.text = ""
        self._inside: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._inside.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style"):
            self._inside.pop()

    def handle_data(self, data: str) -> None:
        if not self._inside:
            self.text += data
        elif self._inside[-1][1].get("type") == "application/json":
            self.json.append(json.loads(data))


def write(folder: Path, *runs: RunHistory, task_patterns: Sequence[str] = (), **more: object) -> str:
    results = Results(runs=list(runs), split="test", **more)  # type: ignore[arg-type]
    write_page(folder / "report.html", results, task_patterns)
    return (folder / "report.html").read_text(encoding="utf-8")


def compare_made_up(tasks: list[str], name: str = "b") -> Comparison:
    verdicts = ("regressed", "improved", "unchanged", "undefined")
    differences = [
        TaskDifference(
            task=task,
            count=50,
            smallest_class=20,
            value_a=0.5,
            value_b=0.5 + 0.1 * (i % 4 - 1),
            difference=float("nan") if i % 4 == 3 else 0.1 * (i % 4 - 1),
            low=-0.1,
            high=0.2,
            p=0.5,
            p_adjusted=1e-9,
            verdict=verdicts[i % 4],  # type: ignore[arg-type]
            reason="only one" if i % 4 == 3 else "",
        )
        for i, task in enumerate(tasks)
    ]
    return Comparison(
        name_a="a",
        name_b=name,
        runs_a=["a (step 1500)"],
        runs_b=[f"{name} (step 1500)"],
        split="test",
        metric="balanced_accuracy",
        alpha=0.05,
        tasks=differences,
        config_changes=["routing.sigma: 0.5 → 1.0"],
        left_out=["other: not in b"],
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunHistory:
    return write_run(tmp_path_factory.mktemp("runs") / "small", SMALL)


def test_names_are_never_markup(tmp_path: Path) -> None:
    made_up = replace(SMALL, names=HOSTILE, classes=("<i>no</i>", "</script><b>yes"))
    run = write_run(
        tmp_path / "<img src=x onerror=broken()>", made_up, write_shapes(tmp_path / "set", made_up).root.local
    )
    comparison = compare_made_up(list(HOSTILE), name="<script>b</script>")
    spread = SeedSpread(
        runs=["<u>1", "2"],
        split="test",
        metric="accuracy",
        tasks=list(HOSTILE),
        values=np.full((2, 6), 0.5),
        in_means=np.full(6, True),
        left_out=["<s>x: y"],
    )
    page = Page(write(tmp_path, run, comparisons=[comparison], spread=spread))
    assert not {"i", "u", "s"} & {tag for tag, _ in page.elements}
    assert all(str(a["href"]).startswith("#") for tag, a in page.elements if tag == "a")
    assert all(str(a["src"]).startswith("data:image/png;base64,") for tag, a in page.elements if tag == "img")
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    kinds = [attributes.get("type") for tag, attributes in page.elements if tag == "script"]
    assert kinds.count("module") == 1
    assert set(kinds) == {"application/json", "application/gzip", "module"}
    assert all(name in page.text for name in HOSTILE)
    tables = [content["rows"] for content in page.json if isinstance(content, dict) and "rows" in content]
    assert [{row[0] for row in rows} for rows in tables] == [set(HOSTILE)] * 3
    for content in page.json:
        if "data" in content:  # Plotly reads a little HTML in texts
            assert "<" not in re.sub(r"<br>|<extra></extra>", "", json.dumps(content, ensure_ascii=False))


def test_the_page_needs_nothing_from_outside(tmp_path: Path, run: RunHistory) -> None:
    page = Page(write(tmp_path, run))
    policy = next(a["content"] for tag, a in page.elements if tag == "meta" and a.get("http-equiv"))
    assert str(policy).startswith("default-src 'none'")
    assert "http" not in str(policy)
    assert "unsafe-eval" not in str(policy)
    for tag, attributes in page.elements:
        assert tag not in ("link", "iframe", "object", "embed", "base", "form")
        for name in ("src", "href", "data", "action", "srcset", "poster"):
            assert str(attributes.get(name, "#")).startswith(("#", "data:image/"))


def test_undefined_cells_are_empty_and_the_note_says_why(run: RunHistory) -> None:
    table = build_task_table(collect_facts(run, "test"))
    rows = {row[0]: row for row in table.rows}
    titles = [column.title for column in table.columns]
    *_, one_class, unlabelled = MadeUp(num_tasks=6).tasks()
    assert rows[unlabelled.name][1:8] == [None] * 7
    assert rows[unlabelled.name][-1] == "no labelled sample"
    assert rows[one_class.name][titles.index("AUROC")] is None
    assert rows[one_class.name][-1] == f"only class `{one_class.classes[0]}` occurs"
    assert "not trained in this run" in str(rows[SMALL.tasks()[0].name][-1])
    assert [index for index, row in enumerate(table.rows) if row[-1]] == table.chosen
    values = [row[1] for row in table.rows]
    assert values[-2:] == [None, None]
    assert values[:-2] == sorted(values[:-2])


def test_a_thousand_tasks_stay_small(tmp_path: Path) -> None:
    made_up = MadeUp(num_tasks=1000, num_samples=100)
    text = write(tmp_path, write_run(tmp_path / "large", made_up, write_shapes(tmp_path / "set", made_up).root.local))
    assert len(text) < 10e6
    assert text.count('src="data:image/png') > 40


def test_without_images(tmp_path: Path, run: RunHistory) -> None:
    text = write(tmp_path, run)
    assert "No images: " in text
    assert 'src="data:image/png' not in text
    assert "samples wrong" in text


def test_images_of_another_set_are_not_shown(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", SMALL, write_shapes(tmp_path / "set", SMALL).root.local)
    (tmp_path / "set").rename(tmp_path / "old")
    write_shapes(tmp_path / "set", replace(SMALL, world=1))
    assert "has other images in split `test`" in write(tmp_path, run)


def test_without_predictions(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", SMALL)
    (tmp_path / "run" / "predictions-test.parquet").unlink()
    page = Page(write(tmp_path, run))
    assert "No samples: " in page.text
    assert "± and the colour of changes are missing." in page.text


def test_a_run_with_one_evaluation_and_nothing_else(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", replace(SMALL, num_evaluations=1))
    for path in run.folder.iterdir():
        if path.name != "per_task.parquet":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    page = Page(write(tmp_path, RunHistory(run.folder)))
    assert "This is the first evaluation" in page.text
    assert "no config.yaml" in page.text


def test_what_sharing_did(tmp_path: Path, run: RunHistory) -> None:
    tasks = [task.name for task in SMALL.tasks()]
    comparison = replace(compare_made_up(tasks), kind="single-task")
    page = Page(write(tmp_path, run, comparisons=[comparison]))
    for text in (
        "What sharing did",
        "Sharing hurt: 2 tasks",
        METHOD,
        "routing.sigma: 0.5 → 1.0",
        "other: not in b",
        "<0.0001",
    ):
        assert text in page.text


def test_several_runs_have_sections_of_their_own(tmp_path: Path, run: RunHistory) -> None:
    other = write_run(tmp_path / "other", replace(SMALL, seed=1))
    page = Page(write(tmp_path, run, other))
    blocks = [a for _, a in page.elements if "run" in str(a.get("class", "")).split()]
    assert [("hidden" in block, block["data-number"]) for block in blocks] == [(False, "0"), (True, "1")] * 2


def test_chosen_tasks(tmp_path: Path, run: RunHistory) -> None:
    page = Page(write(tmp_path, run, task_patterns=["wing_*"]))
    table = next(content for content in page.json if isinstance(content, dict) and content.get("choice"))
    assert [row[0] for row in table["rows"]] == ["wing_brown"]
    with pytest.raises(InputError, match="matches none"):
        write(tmp_path, run, task_patterns=["wings"])


def test_a_file_that_cannot_be_written(tmp_path: Path, run: RunHistory) -> None:
    with pytest.raises(InputError, match="cannot be written"):
        write(tmp_path / "nowhere", run)


def test_figures_are_what_plotly_knows(run: RunHistory) -> None:
    for figures in build_run_figures(collect_facts(run, "test")).values():
        for figure in figures:
            go.Figure(figure.for_script())


def test_config_that_is_not_yaml(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", SMALL)
    run.files.config_file.write_text("data: [")
    run.files.about_file.unlink()
    assert "does not say where its shard set was" in write(tmp_path, RunHistory(run.folder))


def test_losses_are_said_where_they_are_not_the_default(tmp_path: Path, run: RunHistory) -> None:
    assert "losses" not in dict(list_origin(collect_facts(run, "test")))
    config = {
        "loss": {"name": {"*": "focal"}, "class_weight": {"a*": {"yes": 5.0, "no": 1.0}, "b": "sqrt"}, "gamma": 3.0},
        "data": {"missing": "negative", "balance": 0.0},
    }
    changed = write_run(tmp_path / "changed", replace(SMALL, config=config))
    assert dict(list_origin(collect_facts(changed, "test")))["losses"] == (
        "loss.name *: focal; loss.class_weight a*: (no: 1.0, yes: 5.0), b: sqrt; data.missing negative"
    )
