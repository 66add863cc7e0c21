"""`matl-report` on small runs: what is compared with what, what is refused, and what is printed and written."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from helpers.report_runs import binary_tasks, draw_labels, draw_predictions, measure, write_run
from matl_scale.errors import InputError
from matl_scale.metrics.names import PAIRED_METRICS, PairedMetric
from matl_scale.report.__main__ import Results, main
from matl_scale.report.comparison.question import Question
from matl_scale.report.comparison.results import Comparison, SeedSpread, TaskDifference
from matl_scale.report.comparison.runs import compare_runs
from matl_scale.report.comparison.single_task_baseline import compare_with_single_tasks
from matl_scale.report.open_runs import choose_split, open_runs
from matl_scale.runs.history import RunHistory
from matl_scale.runs.records import LocalLog
from matl_scale.tasks import Task

TASKS = [*binary_tasks("better", "worse", "same"), Task(name="kind", classes=("x", "y", "z"))]
SKILL_A = np.array([0.7, 0.95, 0.8, 0.6])
SKILL_B = np.array([0.95, 0.7, 0.8, 0.6])
LABELS = draw_labels(300, TASKS)
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Returns a function that writes a run: name, skill, seed, and the arguments of `write_run`."""

    def run(
        name: str,
        skill: float | np.ndarray = 0.8,
        seed: int = 0,
        tasks: Sequence[Task] = TASKS,
        labels: np.ndarray = LABELS,
        sigma: float = 0.5,
        **others: object,
    ) -> Path:
        config = {"run": {"seed": seed}, "routing": {"sigma": sigma}, "track": {"every": seed}}
        predicted = draw_predictions(labels, tasks, skill, seed)
        write_run(tmp_path / name, tasks, labels, predicted, **{"config": config, **others})  # type: ignore[arg-type]
        return tmp_path / name

    return run


def ask(
    *folders: Path, metric: PairedMetric = "balanced_accuracy", **others: object
) -> tuple[list[Comparison], SeedSpread | None]:
    question = Question(split="test", metric=metric, alpha=0.05, **others)  # type: ignore[arg-type]
    return compare_runs(open_runs(folders), question)


def compare_two(*folders: Path, **others: object) -> Comparison:
    [comparison], _ = ask(*folders, **others)  # type: ignore[arg-type]
    return comparison


def refuse(arguments: Sequence[str]) -> None:
    """Runs the command, which has to end with the exit code of unusable input."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2


def by_name(comparison: Comparison) -> dict[str, TaskDifference]:
    return {task.task: task for task in comparison.tasks}


@pytest.mark.parametrize("metric", PAIRED_METRICS)
def test_values_are_those_of_the_evaluation(write: Write, metric: PairedMetric) -> None:
    a, b = write("a", SKILL_A), write("b", SKILL_B, seed=1)
    comparison = compare_two(a, b, metric=metric)
    for folder, values in ((a, [t.value_a for t in comparison.tasks]), (b, [t.value_b for t in comparison.tasks])):
        np.testing.assert_allclose(values, RunHistory(folder).latest("test").metrics.values[metric], rtol=1e-12)
    for task in comparison.tasks:
        assert task.difference == pytest.approx(task.value_b - task.value_a, abs=1e-12)
        assert task.low <= task.difference <= task.high
        assert task.p <= task.p_adjusted <= 1
    assert [task.count for task in comparison.tasks] == (LABELS >= 0).sum(axis=0).tolist()


def test_tasks_are_put_into_three_lists(write: Write) -> None:
    comparison = compare_two(write("a", SKILL_A, sigma=1.0), write("b", SKILL_B, seed=1))
    lists = {verdict: [task.task for task in comparison.with_verdict(verdict)] for verdict in ("improved", "regressed")}
    assert lists == {"improved": ["better"], "regressed": ["worse"]}
    assert comparison.config_changes == ["run.seed: 0 → 1", "routing.sigma: 1.0 → 0.5"]
    assert "one training" in comparison.notes[0]
    back = by_name(
        compare_two(*(write(name, skill, seed) for name, skill, seed in (("b", SKILL_B, 1), ("a", SKILL_A, 0))))
    )
    assert back["better"].verdict == "regressed"
    assert back["better"].p == pytest.approx(by_name(comparison)["better"].p)


def test_tasks_may_be_in_another_order(write: Write, tmp_path: Path) -> None:
    expected = by_name(compare_two(write("a", SKILL_A), write("b", SKILL_B, seed=1)))
    predicted, order = draw_predictions(LABELS, TASKS, SKILL_B, 1), [2, 0, 3, 1]
    write_run(tmp_path / "c", [TASKS[i] for i in order], LABELS[:, order], predicted[:, order])
    assert by_name(compare_two(tmp_path / "a", tmp_path / "c")) == expected


def test_a_task_of_one_class_or_none_is_undefined_with_a_reason(write: Write) -> None:
    labels = LABELS.copy()
    labels[:, 0] = np.where(labels[:, 0] < 0, -1, 1)
    labels[:, 1] = -1
    found = by_name(compare_two(write("a", labels=labels), write("b", 0.9, 1, labels=labels)))
    assert found["better"].reason == "only class `yes` occurs"
    assert found["worse"].reason == "no labelled sample"
    for name in ("better", "worse"):
        assert found[name].verdict == "undefined"
        assert np.isnan([found[name].value_a, found[name].difference, found[name].low, found[name].p_adjusted]).all()
    assert found["same"].verdict != "undefined"


def test_a_class_with_few_samples_is_warned_of(write: Write) -> None:
    labels = LABELS.copy()
    labels[3:, 0] = 0
    labels[:3, 0] = [0, 1, 1]
    found = by_name(compare_two(write("a", labels=labels), write("b", 0.9, 1, labels=labels)))
    assert found["better"].reason == "class `yes` has only 2 samples"


def test_other_images_are_refused_whatever_is_asked(write: Write) -> None:
    a, b = write("a"), write("b", test_set="others")
    with pytest.raises(InputError, match="split test of b has other images than that of a"):
        compare_two(a, b, common_tasks=True)
    with pytest.raises(InputError, match="other images"):
        compare_two(a, write("c", labels=LABELS[:200]), common_tasks=True)


def test_other_tasks_are_refused_unless_asked_for_the_common_ones(write: Write) -> None:
    a, b = write("a"), write("b", seed=1, tasks=TASKS[1:], labels=LABELS[:, 1:])
    with pytest.raises(InputError, match=r"1 of 4 tasks: better: not in b\. `--common-tasks`"):
        compare_two(a, b)
    comparison = compare_two(a, b, common_tasks=True)
    assert [task.task for task in comparison.tasks] == ["worse", "same", "kind"]
    assert comparison.left_out == ["better: not in b"]
    assert [task.task for task in compare_two(b, a, common_tasks=True).tasks] == ["worse", "same", "kind"]
    page = a.parent / "page.html"  # of tasks one of which only one run has
    assert main([str(a), str(b), "--common-tasks", "--tasks", "worse", "better", "--out", str(page)]) == 0
    assert page.is_file()
    assert [task.task for task in compare_two(a, b, patterns=["same", "k*"]).tasks] == ["same", "kind"]


def test_other_labels_are_refused_unless_asked_for_the_common_ones(write: Write) -> None:
    labels = LABELS.copy()
    labels[7, 2] = -1 if labels[7, 2] >= 0 else 1
    a, b = write("a"), write("b", seed=1, labels=labels)
    with pytest.raises(InputError, match="same: other labels in b than in a"):
        compare_two(a, b)
    assert compare_two(a, b, common_tasks=True).left_out == ["same: other labels in b than in a"]
    with pytest.raises(InputError, match="No task is left to compare"):
        compare_two(a, b, common_tasks=True, patterns=["same"])


def test_classes_of_other_names_are_other_labels(write: Write) -> None:
    renamed = [*TASKS[:3], Task(name="kind", classes=("x", "z", "y"))]
    with pytest.raises(InputError, match="kind: other labels"):
        compare_two(write("a"), write("b", tasks=renamed))


def test_for_an_unknown_task_the_nearest_is_suggested(write: Write) -> None:
    with pytest.raises(InputError, match=r"`--tasks` should match .* Did you mean `better`\?"):
        compare_two(write("a"), write("b"), patterns=["beter"])


def test_runs_of_one_config_show_their_spread(write: Write) -> None:
    folders = [write(f"s{seed}", 0.8, seed) for seed in range(3)]
    comparisons, spread = ask(*folders)
    assert not comparisons
    assert spread is not None
    values = [RunHistory(folder).latest("test").metrics.values["balanced_accuracy"] for folder in folders]
    np.testing.assert_allclose(spread.values, values, rtol=1e-12)
    np.testing.assert_allclose(spread.mean, np.mean(values, axis=0))
    np.testing.assert_allclose(spread.sd, np.std(values, axis=0, ddof=1))
    np.testing.assert_allclose((spread.low, spread.high), (np.min(values, axis=0), np.max(values, axis=0)))


def test_two_runs_of_one_config_are_compared_too(write: Write) -> None:
    [comparison], spread = ask(write("s0", seed=0), write("s1", seed=1))
    assert spread is not None
    assert comparison.config_changes == ["run.seed: 0 → 1"]
    assert "of one config" in comparison.notes[0]


def test_configs_are_compared_group_against_group(write: Write) -> None:
    folders = [
        write(f"{sigma}-{seed}", skill, seed, sigma=sigma)
        for seed in range(2)
        for sigma, skill in ((0.5, SKILL_A), (1.0, SKILL_B), (0.25, SKILL_A))
    ]
    comparisons, spread = ask(*folders)
    assert spread is None
    assert [(each.name_a, each.name_b) for each in comparisons] == [
        ("0.5-0 and 1 more", "1.0-0 and 1 more"), ("0.5-0 and 1 more", "0.25-0 and 1 more"),
    ]  # fmt: skip
    first = comparisons[0]
    assert first.config_changes == ["routing.sigma: 0.5 → 1.0"]
    assert first.runs_a == ["0.5-0 (step 100)", "0.5-1 (step 100)"]
    values = [RunHistory(folders[i]).latest("test").metrics.values["balanced_accuracy"] for i in (0, 3, 1, 4)]
    np.testing.assert_allclose([task.value_a for task in first.tasks], np.mean(values[:2], axis=0))
    np.testing.assert_allclose([task.value_b for task in first.tasks], np.mean(values[2:], axis=0))
    np.testing.assert_allclose(first.spread_a, np.std(values[:2], axis=0, ddof=1))
    assert by_name(first)["better"].verdict == "improved"


def test_differences_that_seeds_alone_may_cause_are_marked(write: Write) -> None:
    folders = [
        write("a0", np.array([0.75, 0.8, 0.8, 0.6]), 0),
        write("a1", np.array([0.75, 0.8, 0.8, 0.6]), 1),
        write("b0", np.array([0.99, 0.8, 0.8, 0.6]), 2, sigma=1.0),
        write("b1", np.array([0.75, 0.8, 0.8, 0.6]), 3, sigma=1.0),
    ]
    task = by_name(compare_two(*folders))["better"]
    assert task.verdict == "improved"
    assert task.reason.startswith("seeds alone may do that: within ±0.")


def single_runs(write: Write) -> Path:
    """Writes a shared run, and single-task runs of which `better` is worse than it, `worse` better, and `same` alike."""
    for seed in (5, 6):
        write(f"alone-better-{seed}", 0.75, seed, tasks=TASKS[:1], labels=LABELS[:, :1])
    write("alone-worse", 0.98, 7, tasks=TASKS[1:2], labels=LABELS[:, 1:2], sigma=1.0)
    write("alone-same", 0.8, 8, tasks=TASKS[2:3], labels=LABELS[:, 2:3])
    write("alone-elsewhere", 0.8, 9, tasks=TASKS[3:], labels=LABELS[:, 3:], test_set="others")
    write("two-tasks", 0.8, 9, tasks=TASKS[2:], labels=LABELS[:, 2:])
    return write("shared", np.array([0.95, 0.75, 0.8, 0.6]), 1)


def test_sharing_is_compared_with_single_tasks(write: Write) -> None:
    shared = single_runs(write)
    found = compare_with_single_tasks(
        RunHistory(shared), Question(split="test", metric="balanced_accuracy", alpha=0.05)
    )
    assert {task.task: task.verdict for task in found.tasks} == {
        "better": "improved", "worse": "regressed", "same": "unchanged",
    }  # fmt: skip
    assert [found.heading(verdict) for verdict in ("improved", "unchanged", "regressed")] == [
        "sharing helped", "no difference", "sharing hurt",
    ]  # fmt: skip
    assert len(found.left_out) == 1
    command = f"matl-train --config {shared}/config.yaml --data.tasks kind --run.name single-kind"
    assert found.left_out == [f"kind: {command}"]
    assert found.config_changes == ["routing.sigma: 1.0 → 0.5 (1 of 4 single-task runs)"]
    singles = [RunHistory(shared.parent / f"alone-better-{seed}").latest("test") for seed in (5, 6)]
    means = np.mean([single.metrics.values["balanced_accuracy"][0] for single in singles])
    assert by_name(found)["better"].value_a == pytest.approx(means)


def test_without_single_task_runs_the_command_is_named(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    tasks = [Task(name="it's a/b", classes=("no", "yes"))]
    shared = write("shared", tasks=[*tasks, *TASKS[1:]], config={"run": {"dir": "elsewhere"}, "eval": {"split": "val"}})
    refuse([str(shared), "--baseline", "single-task"])
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "--data.tasks 'it'\"'\"'s a/b' --run.name 'single-it'\"'\"'s a_b' --run.dir" in error
    assert "&& matl-evaluate --run" in error
    assert "--split test" in error


def test_one_run_is_summarised(write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = LABELS.copy()
    labels[:, 0] = np.where(labels[:, 0] < 0, -1, 1)
    labels[:, 1] = -1
    run = write("one", labels=labels, step=200)
    earlier = measure(TASKS, labels, draw_predictions(labels, TASKS, 0.5, 3))
    names, latest = [task.name for task in TASKS], RunHistory(run).latest("test").metrics
    LocalLog(run).log_per_task(100, "test", names, earlier)
    LocalLog(run).log_per_task(200, "test", names, latest)  # made last
    assert main([str(run), "--json", str(tmp_path / "one.json")]) == 0
    shown = capsys.readouterr().out
    for text in (
        "one: test after 200 steps, 3 tasks",
        "greatest gains in balanced accuracy since step 100",
        "only class `yes` occurs, so no balanced accuracy, AUROC: better",
        "no labelled sample, so no accuracy, balanced accuracy, AUROC, average precision, precision: worse",
        "draws per task: least better 0, worse 200, same 400; most kind 600, same 400, worse 200",
    ):
        assert text in shown
    content = json.loads((tmp_path / "one.json").read_text())["run"]
    assert [task["task"] for task in content["tasks"]] == [task.name for task in TASKS]
    assert content["tasks"][1]["metrics"]["accuracy"] is None
    assert content["tasks"][0]["undefined"]["reason"] == "only class `yes` occurs"
    expected = RunHistory(run).latest("test").metrics
    assert content["tasks"][3]["metrics"]["balanced_accuracy"] == expected.values["balanced_accuracy"][3]
    assert content["summary"]["macro_accuracy"] == expected.summary()["macro_accuracy"]


def test_without_predictions_the_reason_names_no_class(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    labels = LABELS.copy()
    labels[:, 0] = 1
    run = write("one", labels=labels)
    (run / "predictions-test.parquet").unlink()
    assert main([str(run), "--tasks", "better"]) == 0
    shown = capsys.readouterr().out
    assert "only one class occurs, so no balanced accuracy, AUROC: better" in shown
    assert "test was evaluated once" in shown


def test_a_positive_that_is_never_predicted_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "one", TASKS[:1], LABELS[:, :1], np.where(LABELS[:, :1] < 0, -1, 0))
    assert main([str(tmp_path / "one")]) == 0
    assert "the positive class is never predicted, so no precision: better" in capsys.readouterr().out


def test_a_comparison_is_shown_and_written(write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = LABELS.copy()
    labels[:, 2] = -1
    a, b = write("a", SKILL_A, labels=labels), write("b", SKILL_B, 1, labels=labels, sigma=1.0)
    assert main([str(a), str(b), "--json", str(tmp_path / "c.json"), "--limit", "1"]) == 0
    shown = capsys.readouterr().out
    for text in (
        "A: a (step 100)", "B: b (step 100)", "improved 1: better", "unchanged 1: kind", "regressed 1: worse",
        "undefined 1: same", "95 % interval", "adjusted p", "same is undefined: no labelled sample",
        "the configs differ in: 2", "and 1 more",
    ):  # fmt: skip
        assert text in shown
    [content] = json.loads((tmp_path / "c.json").read_text())["comparisons"]
    assert content["counts"] == {"improved": 1, "unchanged": 1, "regressed": 1, "undefined": 1}
    expected = by_name(compare_two(a, b))
    for task in content["tasks"]:
        assert task["p"] == (None if task["verdict"] == "undefined" else expected[task["task"]].p)
    assert len(content["tasks"]) == 4


def test_seeds_are_shown_and_written(write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [str(write(f"s{seed}", 0.8, seed)) for seed in range(3)]
    assert main([*runs, "--json", str(tmp_path / "s.json"), "--metric", "accuracy"]) == 0
    assert "3 runs of one config on test, accuracy" in capsys.readouterr().out
    spread = json.loads((tmp_path / "s.json").read_text())["spread"]
    assert [task["task"] for task in spread["tasks"]] == [task.name for task in TASKS]
    assert len(spread["tasks"][0]["values"]) == 3


def test_the_baseline_is_shown(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(single_runs(write)), "--baseline", "single-task"]) == 0
    shown = capsys.readouterr().out
    for text in (
        "A: one network per task: ",
        "sharing helped 1: better",
        "sharing hurt 1: worse",
        "not compared: 1",
        "--run.name single-kind",
    ):
        assert text in shown


def test_the_page_gets_the_results(write: Write, tmp_path: Path) -> None:
    calls: list[tuple[Path, Results, Sequence[str]]] = []
    a, b = write("a"), write("b", seed=1)
    arguments = [str(a), str(b), "--out", str(tmp_path / "page.html"), "--tasks", "s*", "kind"]
    assert main(arguments, lambda *given: calls.append(given)) == 0
    [(path, results, patterns)] = calls
    assert path == tmp_path / "page.html"
    assert [run.name for run in results.runs] == ["a", "b"]
    assert results.spread is not None
    assert (results.split, patterns, results.spread.tasks) == ("test", ["same", "kind"], ["same", "kind"])
    assert len(results.comparisons) == 1


def test_the_split_is_one_that_all_runs_have(write: Write) -> None:
    a, b = write("a", split="val"), write("b", split="val")
    write("a")
    assert choose_split(open_runs([a, b]), None) == "val"
    assert choose_split(open_runs([a]), None) == "test"
    with pytest.raises(InputError, match="was not evaluated on split `test`"):
        choose_split(open_runs([a, b]), "test")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        # options are checked before a run is read
        (["nowhere", "--out", "no/such/folder/page.html"], "`--out` .* cannot be written: there is no folder"),
        (["nowhere", "--json", "a"], "`--json` should be a file"),
        (["nowhere", "--alpha", "1.5"], "`--alpha` should be between 0 and 1"),
        (["nowhere", "--limit", "0"], "`--limit` should be at least 1"),
        (["nowhere", "b", "--baseline", "single-task"], "`--baseline` should be asked of one RUN"),
        (["a", "a/../a"], "is given twice"),
        (["nowhere"], "is not a run: it has no config.yaml"),
        (["untrained"], "was never evaluated"),
        (["damaged"], "per_task.parquet cannot be read"),
        (["a", "--split", "tset"], "was not evaluated on split `tset`, only on test.* Did you mean `test`"),
        (["a", "--tasks", "bettr"], "Did you mean `better`"),
        (["a", "b", "--tasks", "bettr"], "Did you mean `better`"),
        (["a", "unpredicted"], "predictions-test.parquet is not there: evaluate the run"),
        (["a", "unconfigured"], "config.yaml cannot be read"),
        (["a", "garbled"], "config.yaml cannot be read"),
        (["a", "elsewhere"], "other images"),
    ],
)
def test_bad_input_is_one_line(
    write: Write,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    text: str,
) -> None:
    for name in ("a", "b", "damaged", "unpredicted", "unconfigured", "garbled"):
        write(name)
    write("elsewhere", test_set="others")
    (tmp_path / "untrained").mkdir()
    (tmp_path / "untrained/config.yaml").write_text("run: {name: untrained}\n")
    (tmp_path / "damaged/per_task.parquet").write_bytes(b"PAR1 and no more")
    (tmp_path / "unpredicted/predictions-test.parquet").unlink()
    (tmp_path / "unconfigured/config.yaml").unlink()
    (tmp_path / "garbled/config.yaml").write_text("run: [\n")
    monkeypatch.chdir(tmp_path)
    refuse(arguments)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("matl-report: error: ")
    with pytest.raises(InputError, match=text):
        raise InputError(captured.err)


def test_a_missing_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "plotly", None)
    refuse(["nowhere", "--out", str(tmp_path / "page.html")])
    assert capsys.readouterr().err == (
        "matl-report: error: The page of `--out` needs `plotly`, not installed here. Install with: "
        "pip install 'matl-scale[report]'\n"
    )


def test_an_existing_page_is_not_touched_by_a_failure(write: Write, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("unchanged")
    refuse([str(write("a")), "--tasks", "nothing", "--out", str(tmp_path / "page.html")])
    assert (tmp_path / "page.html").read_text() == "unchanged"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "page.html"]
