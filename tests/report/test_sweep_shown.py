"""How `matl-report --sweep` shows an answer: terminal, JSON, page, picture and Markdown; and what it refuses."""

import io
import json
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from helpers.commands import refuse_report
from helpers.made_up_sweeps import PRECISION, draw_figures, results_of, write_sweep
from matl_scale.errors import InputError
from matl_scale.report.__main__ import main
from matl_scale.report.page.sweep_section import build_variant_table
from matl_scale.report.sweep.as_text import variant_cells, variant_titles
from matl_scale.report.sweep.picture import break_name, inside_scale, write_picture
from matl_scale.report.sweep.read import read_sweep
from matl_scale.report.terminal.console import build_table, print_table
from matl_scale.runs.sweep_folder import SearchOutcome

HOSTILE = "<script>window.broken = 1</script>"


def test_terminal_json_page_and_picture_of_one_sweep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = draw_figures({"dense": 0.0, f"k8 {HOSTILE}": 0.05, "k2": 0.02}, noise=0.004)
    names = [*(f"task {i}" for i in range(7)), HOSTILE]
    points = {f"k8 {HOSTILE}": {"routing.sigma": 0.5}}
    sweep = write_sweep(tmp_path / "sweep", figures, points=points, tasks=dict.fromkeys(figures, names))
    out = {kind: tmp_path / f"a.{kind}" for kind in ("html", "json", "png", "md")}
    options = [
        "--out",
        str(out["html"]),
        "--json",
        str(out["json"]),
        "--picture",
        str(out["png"]),
        "--markdown",
        str(out["md"]),
    ]
    assert main(["--sweep", str(sweep.path), *options]) == 0
    results, printed = results_of(sweep), capsys.readouterr().out
    page, numbers = out["html"].read_text(), json.loads(out["json"].read_text())
    assert results.answer.text in printed
    assert all(variant.name in printed for variant in results.variants)
    behind = results.variant("dense").behind
    assert f"{behind.value:.3f} ± {behind.half_width:.3f}" in printed
    assert "<script>window" not in page
    assert "Use k8 &lt;script&gt;" in page
    assert page.count('<figure class="drawn') == 1
    assert numbers["answer"]["use"] == results.answer.use
    assert [each["macro"] for each in numbers["variants"]] == [each.macro for each in results.variants]
    assert len(numbers["tasks"]) == 8
    with Image.open(out["png"]) as picture:
        assert picture.size[0] > 1000
    lines = out["md"].read_text().splitlines()
    assert lines[0].replace("\\", "") == results.answer.text
    assert "<script>" not in lines[0]
    (row,) = (line for line in lines if line.startswith("| dense |"))
    assert f"{behind.value:.3f} ± {behind.half_width:.3f}" in row
    widths = {line.replace("\\|", "").count("|") for line in lines if line.startswith("|")}
    assert len(widths) == 1, "every row has the cells of the table, whatever names hold"


def test_the_trials_of_each_search_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    searches = {
        "dense": SearchOutcome(status="finished", value=0.7, best=1, finished=1),
        "k8": SearchOutcome(
            status="finished", tuned={"optim.lr": 0.0123456}, value=0.8, best=7, finished=8, pruned=3, failed=1
        ),
    }
    sweep = write_sweep(tmp_path / "sweep", draw_figures({"dense": 0.0, "k8": 0.1}), searches=searches)
    page, text = tmp_path / "a.html", tmp_path / "a.md"
    kinds = ["--out", str(page), "--json", str(tmp_path / "a.json"), "--markdown", str(text)]
    assert main(["--sweep", str(sweep.path), *kinds]) == 0
    printed = capsys.readouterr().out
    trials = "best of 12 trials (3 ended early, 1 failed): number 7"
    assert f"k8: optim.lr=0.01235 ({trials})" in printed
    assert "dense: what the rules choose (best of 1 trial: number 1)" in printed
    assert trials in page.read_text()
    assert "Settings found by 12 trials for each variant:\n\n- dense: what" in text.read_text()
    assert f"- k8: optim.lr=0.01235 ({trials})" in text.read_text()
    assert json.loads((tmp_path / "a.json").read_text())["variants"][1]["search"]["pruned"] == 3


@pytest.mark.parametrize("metric", ["average_precision", "balanced_accuracy"])
def test_each_metric_has_one_column(metric: str, tmp_path: Path) -> None:
    results = results_of(write_sweep(tmp_path / "sweep", draw_figures({"dense": 0.0, "k8": 0.1})), metric=metric)
    table = build_variant_table(results, results.variants)
    titles, text_titles = [column.title for column in table.columns], variant_titles(results)
    for found in (titles, text_titles):
        assert found.count("average precision") == 1
    for variant, row in zip(results.variants, table.rows, strict=True):
        is_metric = metric == "average_precision"
        assert variant.average_precision == pytest.approx(variant.macro if is_metric else PRECISION * variant.macro)
        assert row[titles.index("average precision")] == pytest.approx(variant.average_precision, abs=1e-4)
        cells = variant_cells(variant, results)
        assert cells[text_titles.index("average precision")].startswith(f"{variant.average_precision:.3f}")
        assert cells[text_titles.index("worst task")] == f"{variant.worst:.3f}"


def test_names_of_variants_are_whole_in_a_narrow_terminal() -> None:
    names = [f"k8 routing.sigma=0.5 model.width={width} optim.weight_decay=0.05" for width in (0.125, 0.25)]
    table = build_table("variant", "mean", fold=True)
    for name in names:
        table.add_row(name, "0.123 ± 0.004")
    console = Console(width=40, file=io.StringIO())
    print_table(console, "variants", table)
    assert isinstance(console.file, io.StringIO)
    printed = "".join(line[:24].strip() + " " for line in console.file.getvalue().splitlines()[2:])
    assert all(part in printed.replace(" ", "") for name in names for part in name.split())
    assert "…" not in printed


def test_the_axes_of_a_picture_end_where_the_metric_does() -> None:
    assert inside_scale(-0.02, 1.02) == (0.0, 1.0)
    assert inside_scale(0.4, 0.9) == (0.4, 0.9)
    assert break_name("k8 routing.sigma=0.5 model.width=0.25").splitlines() == [
        "k8 routing.sigma=0.5",
        "model.width=0.25",
    ]


def test_a_picture_can_be_svg_and_is_the_same_each_time(tmp_path: Path) -> None:
    results = results_of(
        write_sweep(tmp_path / "sweep", draw_figures({"dense": 0.0, "k8": 0.1, "k2": 0.1}), smallest_class=5)
    )
    for name in ("a.svg", "b.svg"):
        write_picture(tmp_path / name, results)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert (tmp_path / "a.svg").read_text().startswith("<?xml")


def test_what_is_no_sweep_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "is no sweep: it has no sweep.json" in refuse_report(["--sweep", str(tmp_path)], capsys)
    sweep = write_sweep(tmp_path / "sweep", draw_figures({"dense": 0.0}), outcome=lambda _: None)
    assert "no variant with a finished seed, so there is nothing to compare. dense-s0: not finished" in refuse_report(
        ["--sweep", str(sweep.path)], capsys
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Give the folder of a RUN, as runs/NAME, or of a sweep: --sweep DIR."),
        (["runs/a", "--sweep", "sweep"], "`--sweep` should be given without runs. Got runs/a too"),
        (["runs/a", "--picture", "a.png"], "`--picture` draws the variants of a sweep"),
        (["--sweep", "sweep", "--picture", "a.gif"], "`--picture` should end with .png or .svg"),
        (["--sweep", "sweep", "--common-tasks"], "`--common-tasks` is asked of runs"),
        (["--sweep", "sweep", "--baseline", "single-task"], "`--baseline` is asked of runs"),
        (["runs/a", "--metric", "auroc"], "`--metric` should be one of balanced_accuracy, accuracy"),
    ],
)
def test_options_that_do_not_go_together(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refuse_report(arguments, capsys)


def test_a_run_without_the_split_is_named(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path / "sweep", draw_figures({"dense": 0.0}))
    with pytest.raises(InputError, match="was not evaluated on split `test`"):
        read_sweep(sweep, "test")
