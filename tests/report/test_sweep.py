"""What `matl-report --sweep` answers about made-up sweeps."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.made_up_sweeps import draw_figures, finished, results_of, write_sweep
from matl_scale.errors import InputError
from matl_scale.report.__main__ import main
from matl_scale.report.sweep.answer import choose_variant
from matl_scale.runs.sweep_folder import Outcome, PlannedRun


def test_the_best_variant_is_named_with_its_figures(tmp_path: Path) -> None:
    figures = draw_figures({"dense": 0.0, "k8": 0.05, "task": 0.02}, noise=0.004)
    results = results_of(write_sweep(tmp_path / "sweep", figures))
    assert (results.answer.use, results.answer.best, results.answer.certain) == ("k8", "k8", True)
    dense, k8, _ = results.variants
    assert k8.macro == pytest.approx(figures["k8"].mean())
    assert k8.p10 == pytest.approx(np.percentile(figures["k8"].mean(axis=0), 10))
    assert k8.p10 >= k8.worst
    assert k8.worst == pytest.approx(figures["k8"].mean(axis=0).min())
    assert k8.worst_task == f"task {figures['k8'].mean(axis=0).argmin()}"
    assert dense.behind.value == pytest.approx(k8.macro - dense.macro)
    assert (dense.standing, k8.standing) == ("worse", "best")
    assert (k8.better, k8.worse) == (8, 0)
    assert (dense.better, dense.worse) == (None, None)
    text = results.answer.text
    assert text.startswith(
        f"Use k8, because its mean decided balanced accuracy over 8 tasks, {k8.macro:.3f}, is higher than"
    )
    assert f"dense has {dense.macro:.3f} (difference {dense.behind.value:.3f} ± {dense.behind.half_width:.3f})" in text
    assert "the same budget, 36,000 labels for each training, and were compared on val over 3 seeds" in text


def test_of_variants_that_cannot_be_told_apart_the_simplest_is_used(tmp_path: Path) -> None:
    figures = draw_figures({"task": 0.002, "dense": 0.0, "k8": -0.1}, noise=0.01, seed=3)
    results = results_of(write_sweep(tmp_path / "sweep", figures))
    assert (results.answer.use, results.answer.certain) == ("dense", False)
    assert results.variant("k8").standing == "worse"
    text = results.answer.text
    assert text.startswith("Use dense, because no other variant is better beyond what other seeds would change")
    assert "cannot be told apart" in text
    assert "seeds" in text.split("cannot be told apart")[1]  # how many would tell


def test_the_plain_network_is_simpler_than_one_of_half_the_width(tmp_path: Path) -> None:
    figures = draw_figures({"narrow": 0.002, "dense": 0.0, "k8": -0.1}, noise=0.01, seed=3)
    results = results_of(write_sweep(tmp_path / "sweep", figures))
    assert results.answer.best == "narrow"
    assert results.answer.use == "dense"
    assert "that are not worse it is the simplest" in results.answer.text


def test_without_a_plain_network_fewer_parameters_are_cheaper(tmp_path: Path) -> None:
    def outcome(run: PlannedRun) -> Outcome:
        return finished(parameters=500) if run.variant == "small" else finished()

    one = draw_figures({"task": 0.0})["task"]
    sweep = write_sweep(tmp_path / "sweep", {"task": one, "small": one, "k8": one}, outcome=outcome)
    results = results_of(sweep)
    assert results.answer.use == choose_variant(results.variants).name == "small"
    assert "has the fewest parameters" in results.answer.text
    assert "the same figures to the last digit" in results.answer.text
    assert all(each.behind.p == 1 for each in results.variants)
    assert all(len(task.tied) == 2 for task in results.tasks)


def test_one_seed_tells_nothing(tmp_path: Path) -> None:
    results = results_of(write_sweep(tmp_path / "sweep", draw_figures({"dense": 0.0, "k8": 0.3}, num_seeds=1)))
    assert results.answer.use is None
    assert results.answer.text.startswith("Nothing can be told yet: the variants have one seed")
    assert "k8 has the highest" in results.answer.text
    assert np.isnan(results.variant("dense").behind.p)
    assert results.variant("k8").better is None
    assert not results.losses.known
    assert all(task.tied for task in results.tasks)


def test_failed_and_missing_runs_are_named_and_the_rest_is_compared(tmp_path: Path) -> None:
    def outcome(run: PlannedRun) -> Outcome | None:
        if run.variant == "probe":
            return finished(status="failed", reason="out of memory")
        return None if run.name == "k8-s2" else finished()

    figures = draw_figures({"dense": 0.0, "k8": 0.05, "task": 0.02, "probe": 0.0}, noise=0.004)
    results = results_of(write_sweep(tmp_path / "sweep", figures, outcome=outcome))
    assert [variant.name for variant in results.variants] == ["dense", "k8", "task"]
    assert results.missing == ["probe"]
    assert {(entry.run, entry.reason) for entry in results.unfinished} == {
        ("k8-s2", "not finished"),
        *((f"probe-s{seed}", "out of memory") for seed in range(3)),
    }
    assert results.answer.use == "k8"
    for part in ("k8 has 2 of 3 seeds", "not compared: probe", "3 runs failed and 1 run not finished"):
        assert part in results.answer.text
    # as if the third seed were there, which was lucky or not for all
    expected = np.mean([(figures["k8"] - figures[name])[:2].mean() for name in ("dense", "task")])
    others = np.mean([results.variant(name).macro for name in ("dense", "task")])
    assert results.variant("k8").macro - others == pytest.approx(expected)


def test_a_budget_below_one_pass_is_said(tmp_path: Path) -> None:
    def outcome(run: PlannedRun) -> Outcome:
        return finished(passes=0.4 if run.variant == "task" else 2.0)

    sweep = write_sweep(tmp_path / "sweep", draw_figures({"dense": 0.0, "task": 0.1}), outcome=outcome)
    assert "less than one pass over the labels (task: 0.40)" in results_of(sweep).answer.text


@pytest.mark.parametrize(
    ("budget", "others", "of_k8", "is_said"),
    [
        ("compute", {}, {}, True),
        ("minutes", {"task": 0.02}, {}, True),
        ("labels", {}, {}, False),  # here nothing is gained by being cheap
        ("compute", {"narrow": 0.02}, {}, False),
        ("compute", {"narrow": 0.02}, {"multiply_adds": 5e9}, True),  # no plain network is as cheap
        ("compute", {"half": 0.02}, {}, False),  # an arm of the user's own
        ("compute", {"k1": 0.02}, {}, False),
        ("compute", {"k2": 0.02}, {}, True),
        ("compute", {}, {"multiply_adds": 7.2e10}, False),  # as dear as the plain network
        ("compute", {"dense": 0.2}, {}, False),  # that is the best
    ],
    ids=str,
)
def test_a_cheap_winner_beside_no_cheap_plain_network_is_a_warning(
    budget: str, others: dict[str, float], of_k8: dict[str, Any], is_said: bool, tmp_path: Path
) -> None:
    def outcome(run: PlannedRun) -> Outcome:
        more = of_k8 if run.variant == "k8" else {}
        return finished() if run.variant == "dense" else finished(**{"multiply_adds": 2e10, **more})

    figures = draw_figures({"dense": 0.0, "k8": 0.1, **others}, noise=0.004)
    text = results_of(write_sweep(tmp_path / "sweep", figures, outcome=outcome, budget=budget)).answer.text
    assert ("the arm narrow, or dense with less width, may do as well" in text) == is_said


def test_tasks_trained_alone_are_one_variant(tmp_path: Path) -> None:
    """Costs are sums, an image passes through all networks, and tasks that lose by sharing are listed, worst first."""
    gain = np.full(8, -0.1)
    gain[2], gain[5] = 0.1, 0.2
    figures = draw_figures({"dense": 0.0, "k8": 0.05, "single": gain}, noise=0.004)

    def outcome(run: PlannedRun) -> Outcome:
        return finished(labels=4500, multiply_adds=9e9, passes=4.0) if run.task else finished()

    results = results_of(write_sweep(tmp_path / "sweep", figures, outcome=outcome))
    single = results.variant("single")
    assert single.macro == pytest.approx(figures["single"].mean())
    assert single.cost.parameters == 8000
    assert single.cost.compute_per_label == pytest.approx(2e6)
    assert single.cost.images_per_s == pytest.approx(500 / 8)
    assert single.cost.passes == pytest.approx(4.0)
    assert (results.losses.of, results.losses.against, results.losses.alone) == ("k8", ["single"], True)
    assert [loss.task for loss in results.losses.tasks] == ["task 5", "task 2"]
    assert results.losses.tasks[0].difference == pytest.approx((figures["single"] - figures["k8"])[:, 5].mean())
    assert "2 of 8 tasks do better trained alone than with k8, beyond chance, most of all task 5" in results.answer.text
    best = {task.task: task for task in results.tasks}
    assert (best["task 5"].best, best["task 5"].tied) == ("single", [])
    assert best["task 0"].best == "k8"


def test_an_incomplete_set_of_networks_is_no_seed(tmp_path: Path) -> None:
    def outcome(run: PlannedRun) -> Outcome:
        return finished(status="failed", reason="gone") if run.name == "single-s1-t3" else finished()

    sweep = write_sweep(tmp_path / "sweep", draw_figures({"dense": 0.0, "single": 0.1}), outcome=outcome)
    assert results_of(sweep).variant("single").seeds == [0, 2]


def test_what_is_varied_is_a_curve(tmp_path: Path) -> None:
    points = {f"{arm} routing.sigma={x}": {"routing.sigma": x} for arm in ("k8", "task") for x in (1.0, 0.25)}
    figures = draw_figures({"dense": 0.0} | dict.fromkeys(points, 0.02))
    results = results_of(write_sweep(tmp_path / "sweep", figures, points=points))
    (curve,) = results.curves
    assert (curve.key, [line.name for line in curve.lines]) == ("routing.sigma", ["k8", "task"])
    assert curve.lines[0].x == [0.25, 1.0]
    assert curve.lines[0].y[0] == pytest.approx(figures["k8 routing.sigma=0.25"].mean())
    assert np.isfinite(curve.lines[0].half_widths).all()
    assert curve.levels == {"dense": pytest.approx(figures["dense"].mean())}


def test_arms_with_numbers_of_routes_are_a_curve(tmp_path: Path) -> None:
    results = results_of(write_sweep(tmp_path / "sweep", draw_figures({"dense": 0.0, "k8": 0.0, "k2": 0.0})))
    (curve,) = results.curves
    assert (curve.key, curve.lines[0].x, list(curve.levels)) == ("routes", [2, 8], ["dense"])
    assert not results_of(write_sweep(tmp_path / "other", draw_figures({"dense": 0.0, "k8": 0.0}))).curves


def test_advice_is_about_all_tasks_and_a_curve_over_their_number_about_those_of_all(tmp_path: Path) -> None:
    figures = draw_figures({"dense T=4": 0.2, "k2 T=4": 0.2, "dense T=8": 0.0, "k2 T=8": 0.1}, noise=0.004)
    for name in ("dense T=4", "k2 T=4"):
        figures[name] = figures[name][:, :4]
    points = {name: {"T": int(name[-1])} for name in figures}
    sweep = write_sweep(tmp_path / "sweep", figures, points=points)
    sweep.write_plan(replace(sweep.read_plan(), reference="dense T=4"))
    results = results_of(sweep)
    assert [each.name for each in results.variants] == ["dense T=8", "k2 T=8"]
    assert len(results.tasks) == 8
    assert (results.answer.use, results.reference) == ("k2 T=8", "dense T=8")
    assert results.variant("k2 T=8").better == 8
    assert not results.missing
    shared = results.shared
    assert shared is not None
    assert (shared.partial, shared.num_tasks) == (["dense T=4", "k2 T=4"], 4)
    assert [each.macro for each in shared.variants] == pytest.approx([figures[name][:, :4].mean() for name in figures])
    assert results.curves[0].lines[0].x == [4, 8]
    assert results.curves[0].lines[0].y[1] == pytest.approx(figures["dense T=8"][:, :4].mean())


def test_single_networks_for_some_tasks_do_not_decide_about_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`k8` is better on all tasks together, `dense` on the two that have networks of their own, of which one gains by that."""
    figures = draw_figures({"dense": 0.0, "k8": 0.05, "single": 0.0}, noise=0.003)
    figures["dense"][:, :2] += 0.1
    figures["single"] = figures["single"][:, :2]
    figures["single"][:, 0] += 0.3
    sweep = write_sweep(tmp_path / "sweep", figures)
    results = results_of(sweep)
    assert [each.name for each in results.variants] == ["dense", "k8"]
    assert (len(results.tasks), results.answer.use) == (8, "k8")
    assert (results.losses.of, results.losses.against, results.losses.asked) == ("k8", ["single"], 2)
    assert [loss.task for loss in results.losses.tasks] == ["task 0"]
    assert "1 of 2 tasks does better trained alone than with k8" in results.answer.text
    assert main(["--sweep", str(sweep.path), "--out", str(tmp_path / "page.html")]) == 0
    assert "means over the 2 tasks that all variants have (single: not all tasks)" in capsys.readouterr().out
    assert "On the 2 tasks that all variants have" in (tmp_path / "page.html").read_text()


def test_variants_of_which_none_has_all_tasks_are_compared_on_those_of_all(tmp_path: Path) -> None:
    figures = draw_figures({"dense": 0.0, "k8": 0.05})
    tasks = {"dense": [f"task {i}" for i in range(8)], "k8": [f"task {i}" for i in range(2, 10)]}
    results = results_of(write_sweep(tmp_path / "sweep", figures, tasks=tasks))
    assert [task.task for task in results.tasks] == [f"task {i}" for i in range(2, 8)]
    assert results.notes == ["Compared on the 6 tasks that all variants have, of 10."]
    assert results.shared is None


def test_only_defined_metrics_of_the_chosen_tasks_count(tmp_path: Path) -> None:
    figures = draw_figures({"dense": 0.0, "k8": 0.1})
    for values in figures.values():
        values[:, 0] = np.nan
    sweep = write_sweep(tmp_path / "sweep", figures, smallest_class=12)
    results = results_of(sweep, metric="auroc")
    assert (len(results.tasks), results.metric) == (7, "auroc")
    assert any("Left out: 1 task " in note for note in results.notes)
    assert [task.task for task in results_of(sweep, patterns=["task [12]"]).tasks] == ["task 1", "task 2"]
    with pytest.raises(InputError, match="with 13 samples of each class"):
        results_of(sweep, min_count=13)
    with pytest.raises(InputError, match="--tasks"):
        results_of(sweep, patterns=["nothing"])


def test_without_decisions_it_is_balanced_accuracy(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path / "sweep", draw_figures({"dense": 0.0}), leave_out=["decided_balanced_accuracy"])
    results = results_of(sweep)
    assert results.metric == "balanced_accuracy"
    assert "argmax" in results.notes[0]
    assert "only dense has a finished seed" in results.answer.text
    with pytest.raises(InputError, match="was not measured in the run of dense with seed 0"):
        results_of(sweep, metric="decided_balanced_accuracy")
