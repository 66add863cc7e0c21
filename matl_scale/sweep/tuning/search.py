"""Searches the settings of one variant of a sweep: one trial after the other, with the budget of the variant's runs."""

import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from optuna.trial import Trial

from matl_scale.errors import one_line
from matl_scale.runs.sweep_folder import Search, SearchOutcome, SweepFolder, SweepPlan, Variant
from matl_scale.sweep.progress import describe_settings
from matl_scale.sweep.tuning.died import forget_death, read_death
from matl_scale.sweep.tuning.plan_trial import find_space, name_trial, settings_of_trial, trial_configs
from matl_scale.sweep.tuning.study import SETTINGS, SearchStudy, TrialPruned, open_study
from matl_scale.sweep.tuning.train_trial import Report, delete_checkpoints, train_trial
from matl_scale.train.config import Config

# trains the networks of a trial; None if the process was asked to stop
TrainTrial = Callable[[Sequence[Config], Report], float | None]


def run_search(
    folder: SweepFolder, plan: SweepPlan, search: Search, say: Callable[[str], None], train: TrainTrial = train_trial
) -> SearchOutcome | None:
    """Does the trials of a search that have not ended yet, and writes its outcome last.

    Args:
        folder: The sweep's folder.
        plan: Its plan.
        search: For which variant.
        say: Gets a line for each trial that ends.
        train: Trains the networks of a trial.

    Returns:
        The outcome; None if the process was asked to stop.

    Raises:
        InputError: Another process holds the study, or the data cannot feed the arm.
        RunError: No trial could be trained to its end.
    """
    place, variant = folder.search_folder(search), plan.variant(search.variant)
    with open_study(place, variant.name, plan.tune) as study:
        space = find_space(plan, variant)
        if line := take_death(place, study):
            say(f"{variant.name}: {line}")
        work = Trials(folder=folder, plan=plan, search=search, variant=variant, study=study, train=train)
        while space.first and (found := study.next(space)) is not None:
            ended = work.do(*found)
            if ended is None:
                return None
            say(f"{variant.name}: trial {found[0].number + 1} of {plan.tune}: {ended}{describe_best(study)}")
        outcome = study.outcome() if space.first else SearchOutcome(status="finished")
        folder.write_outcome(search, outcome)
    return outcome


def take_death(folder: Path, study: SearchStudy) -> str:
    """Ends the trial whose process has died, if one has. Returns a line that says so, or nothing.

    Raises:
        RunError: A process has died without a trial.
    """
    reason = read_death(folder)
    if not reason:
        return ""
    forget_death(folder)
    number = study.bury(reason)
    delete_checkpoints(folder.glob(f"{name_trial(number)}*"))
    return f"trial {number} of {study.num_trials}: failed: {reason}"


@dataclass(frozen=True, kw_only=True)
class Trials:
    """What the trials of one search have in common."""

    folder: SweepFolder
    plan: SweepPlan
    search: Search
    variant: Variant
    study: SearchStudy
    train: TrainTrial

    def do(self, trial: Trial, choices: Mapping[str, Any]) -> str | None:
        """Does a trial, or goes on with it. Returns how it ended; None if the process was asked to stop."""
        configs: list[Config] = []
        try:
            settings = self.settings(trial, choices)
            configs = trial_configs(
                self.plan, self.variant, settings, self.folder.search_folder(self.search), trial.number + 1
            )
            value = self.train(configs, partial(self.study.report, trial))
            if value is None:
                return None
            self.study.finish(trial, value)
            ended = f"{value:.4f} with {describe_settings(settings)}"
        except TrialPruned:
            self.study.prune(trial)
            ended = "ended early, as it was worse than most"
        except Exception as error:  # whatever it is, it is this trial's
            traceback.print_exc()
            self.study.fail(trial, one_line(error))
            ended = f"failed: {one_line(error)}"
        delete_checkpoints(config.run.folder for config in configs)
        return ended

    def settings(self, trial: Trial, choices: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the settings of a trial; one that goes on keeps what it has begun with."""
        if SETTINGS not in trial.user_attrs:
            is_first = trial.number == 0
            trial.set_user_attr(SETTINGS, settings_of_trial(self.plan, self.variant, choices, is_first))
        return dict(trial.user_attrs[SETTINGS])


def describe_best(study: SearchStudy) -> str:
    best = study.best()
    return "" if best is None else f"; best {best.value:.4f} (trial {best.number + 1})"
