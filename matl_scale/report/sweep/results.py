"""What is asked of a sweep, and its results: plain values that terminal, JSON, page and picture show."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from matl_scale.display import show_name
from matl_scale.metrics.names import METRIC_LABELS
from matl_scale.report.sweep.macro import Difference
from matl_scale.report.sweep.read import Cost, Unfinished
from matl_scale.runs.sweep_folder import SearchOutcome

Standing = Literal["best", "worse", "cannot tell"]
SWEEP_METRICS = (  # that variants can be compared by: higher is better
    "decided_balanced_accuracy",
    "balanced_accuracy",
    "average_precision",
    "auroc",
    "accuracy",
    "decided_accuracy",
    "decided_f1",
)
METHOD = (
    "Intervals and tests are over seeds: another training with other seeds, judged on the same images. Variants are "
    "compared within seeds, so that the luck of a seed, which all variants share, does not count; intervals of means leave "
    "it out too (Loftus and Masson, 1994). Means over tasks: analysis of variance, and Tukey's test of all pairs of "
    "variants. Tasks: the same model for each, variances moderated over tasks (Smyth, 2004), corrected over tasks by "
    "Benjamini and Hochberg, and, where the best of several variants is chosen, over the choices by Bonferroni."
)


@dataclass(frozen=True, kw_only=True)
class SweepQuestion:
    """The options of the command that concern a sweep."""

    metric: str | None = (
        None  # the metric to compare; None is that of decisions if there are any, else balanced accuracy
    )
    alpha: float = 0.05  # of the tests; over tasks, the false discovery rate
    patterns: Sequence[str] = ()  # which tasks; all if empty
    min_count: int | None = (
        None  # tasks with at least as many samples of each class; None is the runs' `eval.min_count`
    )


@dataclass(frozen=True, kw_only=True)
class VariantResult:
    """One variant, over the tasks that all variants have. Values are means over its seeds, NaN where they are undefined."""

    name: str
    arm: str
    point: Mapping[str, Any]  # varied key → value
    tuned: Mapping[str, Any]  # config key → value
    search: SearchOutcome | None  # that found these; None if there was none
    seeds: list[int]  # that are finished
    seeds_planned: int
    macro: float  # the mean of the metric over tasks, and over seeds as if all were finished, where that can be told
    half_width: (
        float  # of the 95 % interval of that mean, without what seeds do to all variants; NaN if one seed says nothing
    )
    of_seeds: list[float]  # the mean over tasks of each seed
    average_precision: float  # its mean over tasks
    p10: float  # 10th percentile over tasks of the metric, each task's mean over seeds
    worst: float  # the lowest of these means
    worst_task: str
    better: int | None  # tasks that are better than with the reference beyond chance; None if it cannot be told
    worse: int | None  # likewise
    behind: Difference  # what the best variant has more
    standing: Standing
    cost: Cost


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """One task: which variant is best for it."""

    task: str
    values: list[float]  # the metric of each variant, the mean over seeds
    best: str  # the variant with the highest value
    tied: list[str]  # variants that it is not better than beyond chance; all others if nothing can be told


@dataclass(frozen=True, kw_only=True)
class Loss:
    """A task that another variant serves better than the one that was asked about, beyond chance."""

    task: str
    variant: str  # the best other one
    difference: float  # what it has more
    half_width: float  # of the 95 % interval of that difference for this task alone
    p_adjusted: float


@dataclass(frozen=True, kw_only=True)
class Losses:
    """Who loses by sharing; without an arm that trains each task alone, who would do better with another variant."""

    of: str  # the variant that the tasks lose with
    against: list[str]  # the variants that they could have instead
    alone: bool  # whether these train each task alone
    tasks: list[Loss]  # the largest first
    known: bool  # whether anything can be told
    asked: int  # of how many tasks it was asked

    @property
    def title(self) -> str:
        """What the tasks have in common."""
        other = "trained alone" if self.alone else "with another variant"
        return f"tasks that do better {other} than with {show_name(self.of)}, beyond chance"


@dataclass(frozen=True, kw_only=True)
class CurveLine:
    """One arm at several values of what is varied."""

    name: str
    x: list[float]  # ascending
    y: list[float]  # the mean over tasks and seeds
    half_widths: list[float]  # of the intervals over seeds


@dataclass(frozen=True, kw_only=True)
class Curve:
    """The figure against one varied key."""

    key: str  # a config key, or `routes`
    lines: list[CurveLine]
    levels: dict[str, float]  # variants in which the key is not varied, with their figure


@dataclass(frozen=True, kw_only=True)
class SharedTasks:
    """All variants on the tasks that all of them have, where some serve only a part of the tasks."""

    partial: list[str]  # the variants that serve only some tasks
    num_tasks: int
    variants: list[VariantResult]  # all of them


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What to use, and why."""

    use: str | None  # the variant; None if nothing can be told
    best: str  # the variant with the highest figure
    certain: bool  # whether it is better than all others beyond chance
    sentences: list[str]

    @property
    def text(self) -> str:
        return " ".join(self.sentences)


@dataclass(frozen=True, kw_only=True)
class SweepResults:
    """What a report of a sweep shows."""

    name: str
    split: str
    metric: str
    alpha: float
    min_count: int
    budget: str  # what all variants had equally much of, as `3,600,000 labels`
    seeds: list[int]
    tune: int  # trials of each arm's search; 0 if there was none
    reference: str | None  # the variant that tasks are compared with; None if it is not finished
    variants: list[VariantResult]  # in the plan's order; those with a finished seed, as far as they serve all tasks
    shared: SharedTasks | None  # all variants, if some serve only a part of the tasks
    tasks: list[TaskResult]  # in the order of the first run
    losses: Losses
    curves: list[Curve]
    unfinished: list[Unfinished]
    missing: list[str]  # variants without a finished seed
    notes: list[str] = field(default_factory=list)  # what a reader should know besides the numbers, a sentence each
    answer: Answer

    @property
    def metric_label(self) -> str:
        return METRIC_LABELS[self.metric]

    @property
    def has_precision_beside(self) -> bool:
        """Whether average precision is shown besides the metric, because it is not the metric itself."""
        return self.metric != "average_precision"

    @property
    def all_variants(self) -> list[VariantResult]:
        """Those that serve all tasks and those that serve some."""
        return self.variants if self.shared is None else self.shared.variants

    def variant(self, name: str) -> VariantResult:
        return next(variant for variant in self.variants if variant.name == name)
