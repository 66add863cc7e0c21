"""Comparisons of small runs: what is compared with what, what is refused, and what the results say."""

from pathlib import Path

import numpy as np
import pytest

from helpers.report_runs import LABELS, SKILL_A, SKILL_B, TASKS, Write, draw_predictions, write_run, write_single_runs
from matl_scale.errors import InputError
from matl_scale.metrics.names import PAIRED_METRICS, PairedMetric
from matl_scale.report.__main__ import main
from matl_scale.report.comparison.results import Comparison, Question, SeedSpread, TaskDifference
from matl_scale.report.comparison.runs import compare_runs
from matl_scale.report.comparison.single_task_baseline import compare_with_single_tasks
from matl_scale.report.open_runs import choose_split, open_runs
from matl_scale.runs.history import RunHistory
from matl_scale.tasks import Task


def ask(
    *folders: Path, metric: PairedMetric = "balanced_accuracy", **others: object
) -> tuple[list[Comparison], SeedSpread | None]:
    question = Question(split="test", metric=metric, alpha=0.05, **others)  # type: ignore[arg-type]
    return compare_runs(open_runs(folders), question)


def compare_two(*folders: Path, **others: object) -> Comparison:
    [comparison], _ = ask(*folders, **others)  # type: ignore[arg-type]
    return comparison


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
    found = spread.over_runs
    np.testing.assert_allclose(found["mean"], np.mean(values, axis=0))
    np.testing.assert_allclose(found["sd"], np.std(values, axis=0, ddof=1))
    np.testing.assert_allclose((found["min"], found["max"]), (np.min(values, axis=0), np.max(values, axis=0)))


def test_two_runs_of_one_config_are_compared_too(write: Write) -> None:
    [comparison], spread = ask(write("s0", seed=0), write("s1", seed=1))
    assert spread is not None
    assert comparison.config_changes == ["run.seed: 0 → 1"]
    assert "of one config" in comparison.notes[0]


def test_a_relative_path_of_an_older_run_is_no_other_config(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "manifest.json").touch()
    monkeypatch.chdir(tmp_path)
    paths = ("set", str(tmp_path / "set"))
    [comparison], spread = ask(*(write(f"s{i}", config={"data": {"path": path}}) for i, path in enumerate(paths)))
    assert spread is not None
    assert comparison.config_changes == []


def test_how_a_machine_works_makes_no_other_config(write: Write) -> None:
    machines = [
        {"data": {"workers": workers}, "eval": {"batch_size": 64 * workers}, "guard": {"timeout_s": 60 * workers}}
        for workers in (1, 2)
    ]
    [comparison], spread = ask(*(write(f"w{i}", config=config) for i, config in enumerate(machines)))
    assert spread is not None
    assert comparison.config_changes == []
    timed = [write(f"t{i}", config=config | {"train": {"minutes": 5}}) for i, config in enumerate(machines)]
    [comparison], spread = ask(*timed)
    assert spread is None, "where loading is slow, fewer steps fit into the minutes"
    assert comparison.config_changes == ["data.workers: 1 → 2"]


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


def test_sharing_is_compared_with_single_tasks(write: Write) -> None:
    shared = write_single_runs(write)
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


def test_the_split_is_one_that_all_runs_have(write: Write) -> None:
    a, b = write("a", split="val"), write("b", split="val")
    write("a")
    assert choose_split(open_runs([a, b]), None) == "val"
    assert choose_split(open_runs([a]), None) == "test"
    with pytest.raises(InputError, match="was not evaluated on split `test`"):
        choose_split(open_runs([a, b]), "test")
