"""The folder of a sweep: its plan, its runs, and what each run has cost.

sweep.json          the plan, written before the first run
runs/NAME/          the run folders; outcome.json in each is written last
logs/NAME.log       what each run printed
claims/NAME.lock    held by the process that does the run
tune/ARM/           the search for an arm's settings, if there is one
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from matl_scale.errors import InputError
from matl_scale.storage.files import write_json

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
    tuned: Mapping[str, Any] = field(default_factory=dict)  # config key → value, as tuning found them; else empty


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """One training."""

    name: str  # of its folder in `runs`
    variant: str  # the variant's name
    seed: int
    settings: Mapping[str, Any]  # config key (`section.key`) → value, beside the defaults
    task: str = ""  # the only task, where an arm trains a network for each; else empty


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
    tune: int = 0  # trials of each arm's search; 0 searches nothing

    def runs_of(self, variant: str) -> list[PlannedRun]:
        return [run for run in self.runs if run.variant == variant]

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
    labels: int = 0  # labels that were trained, likewise
    multiply_adds: float = 0.0  # of training, forward and backward
    passes: float = 0.0  # passes over the labels
    parameters: int = 0  # of trunk and heads
    images_per_s: float = 0.0  # images answered for all tasks per second, while evaluating


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

    def log_file(self, run: PlannedRun) -> Path:
        return self.path / "logs" / f"{run.name}.log"

    @property
    def claims(self) -> Path:
        return self.path / "claims"

    def tune_folder(self, arm: str) -> Path:
        return self.path / "tune" / arm

    def read_plan(self) -> SweepPlan:
        """Reads the plan; raises `InputError` if there is none, or none that can be read."""
        try:
            content = json.loads(self.plan_file.read_text(encoding="utf-8"))
            if content.pop("format") != FORMAT:
                raise InputError(
                    f"{self.plan_file} is of another version of matl_scale. Use that version, or another folder."
                )
            variants = [Variant(**variant) for variant in content.pop("variants")]
            runs = [PlannedRun(**run) for run in content.pop("runs")]
            return SweepPlan(variants=variants, runs=runs, **content)
        except InputError:
            raise
        except FileNotFoundError as error:
            raise InputError(f"{self.path} is no sweep: it has no {SWEEP_FILE}.") from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{self.plan_file} cannot be read as a sweep's plan: {error!r}.") from error

    def write_plan(self, plan: SweepPlan) -> None:
        """Writes the plan, and makes the folders of runs, logs and claims."""
        for folder in (self.runs, self.path / "logs", self.claims):
            folder.mkdir(parents=True, exist_ok=True)
        write_json(self.plan_file, {"format": FORMAT, **asdict(plan)})

    def read_outcome(self, run: PlannedRun) -> Outcome | None:
        """Reads how a run ended; None if it has not ended."""
        file = self.run_folder(run) / OUTCOME_FILE
        if not file.is_file():
            return None
        try:
            return Outcome(**json.loads(file.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise InputError(
                f"{file} cannot be read: {error!r}. Delete it, and start the sweep again to repeat that run."
            ) from error

    def write_outcome(self, run: PlannedRun, outcome: Outcome) -> None:
        write_json(self.run_folder(run) / OUTCOME_FILE, asdict(outcome))

    def forget_outcome(self, run: PlannedRun) -> None:
        """Removes the outcome of a run that is tried again."""
        (self.run_folder(run) / OUTCOME_FILE).unlink(missing_ok=True)

    def ended_at(self, run: PlannedRun) -> float:
        """Returns when the outcome of a run was written, in seconds since 1970 by the clock of the file system."""
        return (self.run_folder(run) / OUTCOME_FILE).stat().st_mtime
