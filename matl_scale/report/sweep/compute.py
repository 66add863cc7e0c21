"""From the runs of a sweep to its results."""

from collections.abc import Sequence

import numpy as np

from matl_scale.metrics.names import METRIC_LABELS
from matl_scale.metrics.task_metrics import mean
from matl_scale.report.significance.paired_counts import LEVEL
from matl_scale.report.sweep.answer import Evidence, choose_variant, write_answer
from matl_scale.report.sweep.curves import draw_curves
from matl_scale.report.sweep.figures import Figures, gather_figures
from matl_scale.report.sweep.macro import Difference, compare_pair, find_highest, mean_interval, seeds_needed
from matl_scale.report.sweep.read import Cost, SweepRuns
from matl_scale.report.sweep.results import (
    Losses,
    SharedTasks,
    Standing,
    SweepQuestion,
    SweepResults,
    VariantResult,
)
from matl_scale.report.sweep.set_aside import Fits, find_set_aside, fit_nested
from matl_scale.report.sweep.tasks import ALONE, TaskModel, count_changes, find_best, find_losses, fit_tasks
from matl_scale.report.sweep.two_way import TwoWayFit
from matl_scale.report.sweep.whole import find_reference, split_by_tasks
from matl_scale.runs.sweep_folder import SweepPlan
from matl_scale.text import count_of


def compute_sweep(runs: SweepRuns, question: SweepQuestion) -> SweepResults:
    """Computes what a report of a sweep shows.

    Raises:
        InputError: The metric was not measured, a pattern matches no task, or the variants have no task in common.
    """
    whole, partial = split_by_tasks(runs)
    figures, alpha = gather_figures(whole, question), question.alpha
    names = [variant.name for variant in figures.variants]
    missing = [each.name for each in runs.plan.variants if each.name not in (*names, *partial)]
    reference = find_reference(runs, names)
    aside = find_set_aside(figures.macro, alpha)
    macro, model = fit_nested(figures.macro[:, :, None], aside), fit_tasks(figures, alpha, aside)
    variants = compare_variants(whole, figures, macro, model, reference, alpha)
    losses, curves, shared = ask_losses(model, figures, variants, reference), draw_curves(variants), None
    if partial:
        on_shared = gather_figures(runs, question)
        shared_aside = find_set_aside(on_shared.macro, alpha)
        shared_model = fit_tasks(on_shared, alpha, shared_aside)
        shared = compare_shared(runs, on_shared, shared_model, shared_aside, partial, reference, alpha)
        drawn = {curve.key for curve in curves}
        curves += [curve for curve in draw_curves(shared.variants) if curve.key not in drawn]
        if any(each.arm == ALONE for each in shared.variants if each.name in partial):
            used = [variant.name for variant in on_shared.variants].index(choose_variant(variants).name)
            losses = find_losses(shared_model, on_shared, used)
    evidence = Evidence(
        variants=variants,
        missing=missing,
        unfinished=runs.unfinished,
        losses=losses,
        metric_label=METRIC_LABELS[figures.metric],
        num_tasks=len(figures.tasks),
        split=runs.split,
        budget=describe_budget(runs.plan),
        gives_cheap_more=runs.plan.budget in ("compute", "minutes"),
        seeds=figures.seeds,
        tune=runs.plan.tune,
        set_aside=[names[i] for i in aside],
        times_as_noisy=macro.times_as_much,
        seeds_needed=count_seeds(variants, macro.calm, alpha),
    )
    absent = f"{runs.plan.reference}, which tasks are compared with, has no finished seed."
    return SweepResults(
        name=runs.name,
        split=runs.split,
        metric=figures.metric,
        alpha=alpha,
        min_count=figures.min_count,
        budget=evidence.budget,
        seeds=figures.seeds,
        tune=runs.plan.tune,
        reference=reference,
        variants=variants,
        tasks=find_best(model, figures),
        losses=losses,
        curves=curves,
        shared=shared,
        unfinished=runs.unfinished,
        missing=missing,
        notes=figures.notes + ([absent] if reference is None else []),
        answer=write_answer(evidence),
    )


def compare_shared(
    runs: SweepRuns,
    figures: Figures,
    model: TaskModel,
    aside: list[int],
    partial: list[str],
    reference: str | None,
    alpha: float,
) -> SharedTasks:
    """Compares all variants on the tasks that all of them have."""
    macro = fit_nested(figures.macro[:, :, None], aside)
    variants = compare_variants(runs, figures, macro, model, reference, alpha)
    return SharedTasks(partial=partial, num_tasks=len(figures.tasks), variants=variants)


def compare_variants(
    runs: SweepRuns,
    figures: Figures,
    macro: Fits,
    model: TaskModel,
    reference: str | None,
    alpha: float,
) -> list[VariantResult]:
    """Returns the results of every variant, each beside the best one and the reference."""
    names = [variant.name for variant in figures.variants]
    best = find_highest(macro.whole)
    num_seeds = np.isfinite(figures.macro).sum(axis=1)
    results = []
    for i, variant in enumerate(figures.variants):
        behind = compare_pair(*macro.of_pair(best, i), alpha)
        changes = None if reference in (None, variant.name) else count_changes(model, i, names.index(str(reference)))
        finished = np.flatnonzero(np.isfinite(figures.macro[i]))
        of_tasks = figures.values[i, finished]
        by_task = of_tasks.mean(axis=0)
        results.append(
            VariantResult(
                name=variant.name,
                arm=variant.arm,
                point=variant.point,
                tuned=variant.tuned,
                search=runs.searches.get(variant.name),
                seeds=[figures.seeds[j] for j in finished],
                seeds_planned=len({run.seed for run in runs.plan.runs_of(variant.name)}),
                macro=float(macro.whole.means[i, 0]),
                half_width=mean_interval(macro.of_pair(i, i)[0], int(num_seeds[i]), LEVEL),
                of_seeds=of_tasks.mean(axis=1).tolist(),
                average_precision=mean(figures.average_precision[i, finished]),
                p10=float(np.percentile(by_task, 10)),
                worst=float(by_task.min()),
                worst_task=figures.tasks[int(by_task.argmin())],
                better=None if changes is None else changes[0],
                worse=None if changes is None else changes[1],
                behind=behind,
                standing=judge(behind, i == best, alpha),
                cost=mean_cost([cell.cost for cell in runs.cells if cell.variant == variant.name]),
            )
        )
    return results


def judge(behind: Difference, is_best: bool, alpha: float) -> Standing:
    if is_best:
        return "best"
    return "worse" if behind.p <= alpha else "cannot tell"


def mean_cost(costs: Sequence[Cost]) -> Cost:
    """Returns the mean over seeds."""
    return Cost(
        parameters=round(float(np.mean([cost.parameters for cost in costs]))),
        compute_per_label=mean(np.array([cost.compute_per_label for cost in costs])),
        compute_per_image=mean(np.array([cost.compute_per_image for cost in costs])),
        images_per_s=mean(np.array([cost.images_per_s for cost in costs])),
        passes=mean(np.array([cost.passes for cost in costs])),
    )


def ask_losses(model: TaskModel, figures: Figures, variants: Sequence[VariantResult], reference: str | None) -> Losses:
    """Finds who loses with the variant that the answer names; if that trains each task alone, with the reference."""
    chosen = choose_variant(variants)
    used = reference if chosen.arm == ALONE and reference is not None else chosen.name
    return find_losses(model, figures, [variant.name for variant in variants].index(used))


def count_seeds(variants: Sequence[VariantResult], macro: TwoWayFit, alpha: float) -> int | None:
    """Returns how many seeds would tell the best variant and the one that the answer is about; None if too many would."""
    tied = [each for each in variants if each.standing == "cannot tell" and np.isfinite(each.behind.p)]
    if not tied:
        return None
    chosen = choose_variant(variants)
    rival = min(tied, key=lambda each: each.behind.value) if chosen.standing == "best" else chosen
    return seeds_needed(rival.behind.value, float(macro.variances[0]), macro.num_distinct, alpha)


def describe_budget(plan: SweepPlan) -> str:
    """Names the budget, as `3,600,000 labels`."""
    if plan.budget == "compute":
        return f"{plan.amount:.3g} multiply-adds"
    return count_of(plan.amount, plan.budget.removesuffix("s"), ",.10g")
