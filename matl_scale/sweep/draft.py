"""What a sweep compares: its variants and their networks, before anything is counted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from matl_scale.data.shards.folds import read_folded
from matl_scale.errors import InputError
from matl_scale.runs.sweep_folder import SweepPlan, Variant
from matl_scale.sweep.arms import Arm
from matl_scale.sweep.budget import Budget
from matl_scale.sweep.settings import build_base
from matl_scale.sweep.vary import NUM_TASKS, TASKS_KEY, Varied, build_variants, describe_not_varied
from matl_scale.tasks import match_names
from matl_scale.text import count_of
from matl_scale.train.config import Config

REFERENCE = "dense"
TEST_SPLIT = "test"
MAX_SINGLE = 20


@dataclass(frozen=True, kw_only=True)
class SweepRequest:
    """What somebody wants to compare."""

    config: Config  # what all runs have in common
    arms: Sequence[Arm]
    seeds: Sequence[int]
    varied: Sequence[Varied] = ()
    budget: Budget
    single_tasks: Sequence[
        str
    ] = ()  # patterns of the tasks for which an arm like `single` trains networks; empty means all
    experiment: str = "sweep"  # MLflow's, unless the config names one
    tune: int = 0  # trials of the search for each variant's settings; 0 searches nothing


@dataclass(frozen=True, kw_only=True)
class SweepDraft:
    """A sweep before the lengths of its runs are known."""

    request: SweepRequest
    base: Config  # the request's config without what the sweep sets for each run
    split: str  # that is compared
    variants: list[Variant]
    single_tasks: Mapping[str, list[str]]  # variant → the tasks for which it trains a network each; no entry for others
    lines: list[str]  # what the user should know

    @property
    def reference(self) -> str:
        """The variant that the others are compared with: `dense`, or the first arm; where T varies, the largest."""
        arms = [each.arm for each in self.variants]
        arm = REFERENCE if REFERENCE in arms else arms[0]
        return max(
            (each for each in self.variants if each.arm == arm), key=lambda each: each.point.get(NUM_TASKS, 0)
        ).name

    def tasks_of(self, variant: Variant) -> list[str]:
        """Returns the task of each network of a variant; one empty name if its only network serves all."""
        return self.single_tasks.get(variant.name, [""])

    @property
    def num_runs(self) -> int:
        return len(self.request.seeds) * sum(len(self.tasks_of(variant)) for variant in self.variants)


def draft_sweep(request: SweepRequest, earlier: SweepPlan | None = None) -> SweepDraft:
    """Finds the variants of a sweep.

    Args:
        request: What is wanted.
        earlier: The plan that the sweep's folder has already: its version of the labels stays.

    Raises:
        InputError: The shard set cannot be read, or it cannot feed an arm.
    """
    base = build_base(request.config)
    if earlier is not None and not base.data.version:
        base = replace(base, data=replace(base.data, version=earlier.base["data"]["version"]))
    manifest = read_folded(base.data.path, base.data.version, base.data.fold, base.data.fold_seed)
    base = replace(base, data=replace(base.data, version=str(manifest.version)))
    patterns = None if base.data.tasks == "*" else base.data.tasks
    names = [manifest.task_names[task_id] for task_id in match_names(manifest.task_names, patterns, "data.tasks")]
    variants = build_variants(request.arms, request.varied, names)
    arms = {arm.name: arm for arm in request.arms}
    single_tasks = {
        variant.name: choose_single_tasks(variant, variant.settings.get(TASKS_KEY, names), request.single_tasks)
        for variant in variants
        if arms[variant.arm].per_task
    }
    if request.single_tasks and not single_tasks:
        raise InputError("`--single-tasks` should come with the arm `single`, which trains a network for each of them.")
    split = TEST_SPLIT if TEST_SPLIT in manifest.splits else base.eval.split
    manifest.sample_ids(split)
    return SweepDraft(
        request=request,
        base=base,
        split=split,
        variants=variants,
        single_tasks=single_tasks,
        lines=[*describe_not_varied(request.arms, request.varied, len(names)), *describe_tuning(request, base, split)],
    )


def describe_tuning(request: SweepRequest, base: Config, split: str) -> list[str]:
    """Says what is searched, and what makes its result look better than it is."""
    if not request.tune:
        return []
    lines = [
        f"first, settings of every variant are searched on {base.eval.split}: {count_of(request.tune, 'trial')}, a budget each"
    ]
    if split == base.eval.split:
        lines.append(
            f"{split} is searched and compared, as there is no {TEST_SPLIT}: variants with more to search look better"
        )
    return lines


def choose_single_tasks(variant: Variant, names: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """Returns the tasks for which an arm trains a network each.

    Raises:
        InputError: There are many, and nobody has chosen some.
    """
    if patterns:
        return [names[task_id] for task_id in match_names(names, patterns, "--single-tasks")]
    if len(names) > MAX_SINGLE:
        raise InputError(
            f"`{variant.name}` would train {len(names):,} networks per seed, one for each task. Choose some tasks with "
            f"--single-tasks PATTERN …; without it, there should be at most {MAX_SINGLE}."
        )
    return list(names)
