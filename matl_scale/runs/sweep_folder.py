"""The folder of a sweep: its plan, its runs, and what each run has cost.

sweep.json          the plan, written before the first run
runs/NAME/          the run folders; outcome.json in each is written last
logs/NAME.log       what each run printed
claims/NAME.lock    held by the process that does the run
tune/NAME/          the search for a variant's settings, if there is one: the study, its trials; outcome.json is written last
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from matl_scale.errors import InputError
from matl_scale.storage.files import write_json
from matl_scale.text import count_of

FORMAT = 1
SWEEP_FILE = "sweep.json"
OUTCOME_FILE = "outcome.json"
BudgetKind = Literal["compute", "labels", "steps", "minutes"]


@dataclass(frozen=True, kw_only=True)
class Variant:
    """What is compared: an arm, at one point of what is varied."""

    name: str  # the arm, and the varied keys with their values, as `k8 routing.sigma=0.5`
    arm: str  # the name of the arm
    point: Mapping[str, Any] = field(default_factory=dict)  # varied key → value; empty if nothing is varied in it
    settings: Mapping[str, Any] = field(default_factory=dict)  # config key → value: what arm and point are
    # config key → value, as its search found them; empty if there was none, or nothing better than what the rules choose
    tuned: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """One training."""

    name: str  # of its folder in `runs`
    variant: str  # the variant's name
    seed: int
    settings: Mapping[str, Any]  # config key (`section.key`) → value, beside the defaults
    task: str = ""  # the only task, where an arm trains a network for each; else empty


@dataclass(frozen=True, kw_only=True)
class Search:
    """The search for the settings of one variant; its runs begin when it has ended."""

    name: str  # of its folder in `tune`
    variant: str  # the variant's name


Work = PlannedRun | Search  # what a worker does


@dataclass(frozen=True, kw_only=True)
class SweepPlan:
    """What a sweep consists of."""

    variants: list[Variant]  # in the order in which they are shown
    runs: list[PlannedRun]
    reference: str  # the variant that the others are compared with: `dense` if it is there, else the first
    budget: BudgetKind  # what all variants have equally much of
    # how much each training of a variant has of it: multiply-adds, labels, steps or minutes; of an arm that trains a network per
    # task, all of them together
    amount: float
    split: str  # the split that is compared
    base: Mapping[str, Any]  # the config given, as sections
    tune: int = 0  # trials of each variant's search; 0 searches nothing
    searches: list[Search] = field(default_factory=list)  # one for each variant, or none

    @property
    def work(self) -> list[Work]:
        """All that is to be done, searches first."""
        return [*self.searches, *self.runs]

    def variant(self, name: str) -> Variant:
        return next(variant for variant in self.variants if variant.name == name)

    def runs_of(self, variant: str) -> list[PlannedRun]:
        return [run for run in self.runs if run.variant == variant]

    def search_of(self, variant: str) -> Search | None:
        return next((search for search in self.searches if search.variant == variant), None)

    @property
    def seeds(self) -> list[int]:
        return sorted({run.seed for run in self.runs})


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one training has cost, and how it ended."""

    status: Literal["finished", "failed"]
    reason: str = ""  # why it failed, in a line; else empty
    steps: int = 0
    seconds: float = 0.0  # of training steps
    images: int = 0  # images that were trained, one in several steps counting each time
    labels: int = 0  # labels that were trained, likewise, and filled ones too (`data.missing`)
    multiply_adds: float = 0.0  # of training, forward and backward
    passes: float = 0.0  # passes over the labels
    parameters: int = 0  # of trunk and heads
    images_per_s: float = 0.0  # images answered for all tasks per second, while evaluating


@dataclass(frozen=True, kw_only=True)
class SearchOutcome:
    """How the search for the settings of a variant has ended."""

    status: Literal["finished", "failed"]
    reason: str = ""  # why it failed, in a line; else empty
    tuned: Mapping[str, Any] = field(default_factory=dict)  # config key → value; empty if the first trial was the best
    value: float | None = None  # the best trial's
    best: int = 0  # the number of that trial, from 1
    finished: int = 0  # trials that were trained to their end
    pruned: int = 0  # trials that were ended early, as they were worse than most
    failed: int = 0  # trials that could not be trained

    @property
    def trials(self) -> int:
        return self.finished + self.pruned + self.failed

    def describe_trials(self) -> str:
        """Returns how many trials there were, as `12 trials (3 ended early, 1 failed)`."""
        others = {"ended early": self.pruned, "failed": self.failed}
        counted = ", ".join(f"{number} {how}" for how, number in others.items() if number)
        return count_of(self.trials, "trial") + (f" ({counted})" if counted else "")


AnyOutcome = TypeVar("AnyOutcome", Outcome, SearchOutcome)


@dataclass(frozen=True)
class SweepFolder:
    """The files of one sweep, whether they exist or not."""

    path: Path

    @property
    def plan_file(self) -> Path:
        return self.path / SWEEP_FILE

    @property
    def runs(self) -> Path:
        return self.path / "runs"

    def run_folder(self, run: PlannedRun) -> Path:
        return self.runs / run.name

    def search_folder(self, search: Search) -> Path:
        return self.path / "tune" / search.name

    def folder_of(self, work: Work) -> Path:
        return self.search_folder(work) if isinstance(work, Search) else self.run_folder(work)

    def log_file(self, work: Work) -> Path:
        return self.path / "logs" / f"{work.name}.log"

    @property
    def claims(self) -> Path:
        return self.path / "claims"

    def read_plan(self) -> SweepPlan:
        """Reads the plan, with the settings that searches have found up to now.

        Raises:
            InputError: There is none, or none that can be read.
        """
        try:
            content = json.loads(self.plan_file.read_text(encoding="utf-8"))
            if content.pop("format") != FORMAT:
                raise InputError(
                    f"{self.plan_file} is of another version of matl_scale. Use that version, or another folder."
                )
            variants = [Variant(**variant) for variant in content.pop("variants")]
            runs = [PlannedRun(**run) for run in content.pop("runs")]
            searches = [Search(**search) for search in content.pop("searches", [])]
            plan = SweepPlan(variants=variants, runs=runs, searches=searches, **content)
        except InputError:
            raise
        except FileNotFoundError as error:
            raise InputError(f"{self.path} is no sweep: it has no {SWEEP_FILE}.") from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{self.plan_file} cannot be read as a sweep's plan: {error!r}.") from error
        found_by = {each.variant: outcome.tuned for each in searches if (outcome := self.read_search(each)) is not None}
        tuned = [replace(each, tuned=found_by.get(each.name, each.tuned)) for each in variants]
        return replace(plan, variants=tuned)

    def write_plan(self, plan: SweepPlan) -> None:
        """Writes the plan, and makes the folders of runs, logs and claims."""
        for folder in (self.runs, self.path / "logs", self.claims):
            folder.mkdir(parents=True, exist_ok=True)
        write_json(self.plan_file, {"format": FORMAT, **asdict(plan)})

    def read_outcome(self, run: PlannedRun) -> Outcome | None:
        """Reads how a run ended; None if it has not ended."""
        return self._read(run, Outcome)

    def read_search(self, search: Search) -> SearchOutcome | None:
        """Reads how a search ended; None if it has not ended."""
        return self._read(search, SearchOutcome)

    def read_ending(self, work: Work) -> Outcome | SearchOutcome | None:
        return self.read_search(work) if isinstance(work, Search) else self.read_outcome(work)

    def _read(self, work: Work, kind: type[AnyOutcome]) -> AnyOutcome | None:
        file = self.folder_of(work) / OUTCOME_FILE
        if not file.is_file():
            return None
        try:
            return kind(**json.loads(file.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise InputError(
                f"{file} cannot be read: {error!r}. Delete it, and start the sweep again to repeat that part of it."
            ) from error

    def write_outcome(self, work: Work, outcome: Outcome | SearchOutcome) -> None:
        write_json(self.folder_of(work) / OUTCOME_FILE, asdict(outcome))

    def forget_outcome(self, work: Work) -> None:
        """Removes the outcome of what is tried again."""
        (self.folder_of(work) / OUTCOME_FILE).unlink(missing_ok=True)

    def ended_at(self, work: Work) -> float:
        """Returns when an outcome was written, in seconds since 1970 by the clock of the file system."""
        return (self.folder_of(work) / OUTCOME_FILE).stat().st_mtime
