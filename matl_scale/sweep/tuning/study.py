"""The study of one search, which is Optuna's: its trials, on disk, and who is at it.

Optuna's journal is a file to which lines are added, so a process that is killed loses nothing but what it was writing. One
process at a time holds a study, by the lock of its folder. What a trial chooses follows from the trials before it alone, so that
a search that was interrupted goes the way it would have gone.
"""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from matl_scale.errors import RunError
from matl_scale.runs.sweep_folder import SearchOutcome
from matl_scale.seeds import derive_seed
from matl_scale.storage.locks import lock_folder
from matl_scale.sweep.tuning.space import Space, choose
from matl_scale.text import count_of

JOURNAL_FILE = "study.journal"
SETTINGS, REASON = "settings", "failed"  # what is kept with a trial beside Optuna's own
RANDOM_TRIALS = 5  # before the sampler goes by the earlier ones
PRUNED_FROM = 3  # trials that have been trained to their end, before others are compared with them
PRUNED_AFTER = 2  # evaluations that every trial gets: a high learning rate looks bad early


class TrialPruned(Exception):
    """Ends a trial that is worse than most."""


class SearchStudy:
    """The trials of a search.

    Args:
        study: Optuna's.
        num_trials: How many the search has.
    """

    def __init__(self, study: optuna.Study, num_trials: int) -> None:
        self.study, self.num_trials = study, num_trials

    def next(self, space: Space) -> tuple[Trial, Mapping[str, Any]] | None:
        """Returns the next trial and its choices: the one that was interrupted, if there is one. None if all have ended."""
        if (interrupted := self._interrupted()) is not None:
            trial = Trial(self.study, interrupted._trial_id)
        elif len(self._ended()) >= self.num_trials:
            return None
        else:
            if not self.study.get_trials(deepcopy=False):
                self.study.enqueue_trial(space.first)
            trial = self.study.ask()
        seed = derive_seed("search", self.study.study_name, trial.number) % 2**32
        self.study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=RANDOM_TRIALS)
        return trial, choose(trial, space)

    def report(self, trial: Trial, part: int, value: float, is_last: bool) -> None:
        """Keeps the best value of a trial up to its evaluation number `part`; raises `TrialPruned` if that is worse than most."""
        known = self.study.get_trials(deepcopy=False)[trial.number].intermediate_values
        if part not in known:  # else it has gone on from an earlier checkpoint
            trial.report(value, part)
        if not is_last and trial.should_prune():
            raise TrialPruned

    def finish(self, trial: Trial, value: float) -> None:
        self.study.tell(trial, value)

    def prune(self, trial: Trial) -> None:
        self.study.tell(trial, state=TrialState.PRUNED)

    def fail(self, trial: Trial, reason: str) -> None:
        """Ends a trial that cannot be trained. The sampler learns from it: for Optuna it is one that was pruned at once."""
        trial.set_user_attr(REASON, reason)
        self.prune(trial)

    def bury(self, reason: str) -> int:
        """Ends the trial whose process has died; returns its number, from 1.

        Raises:
            RunError: It has died without a trial.
        """
        interrupted = self._interrupted()
        if interrupted is None:
            raise RunError(reason)
        self.fail(Trial(self.study, interrupted._trial_id), reason)
        return interrupted.number + 1

    def best(self) -> FrozenTrial | None:
        """Returns the best of the trials that were trained to their end, the first of equal ones; None if there is none."""
        finished = [trial for trial in self._ended() if trial.state == TrialState.COMPLETE]
        return max(finished, key=lambda trial: (trial.value, -trial.number), default=None)

    def has_failed(self) -> bool:
        """Returns whether all trials have ended, and none at its end."""
        return len(self._ended()) >= self.num_trials and self.best() is None

    def outcome(self) -> SearchOutcome:
        """Returns how the search has ended.

        Raises:
            RunError: No trial was trained to its end.
        """
        trials, best = self._ended(), self.best()
        failed = [trial for trial in trials if REASON in trial.user_attrs]
        if best is None:
            raise RunError(
                f"none of {count_of(len(trials), 'trial')} was trained to its end; the first: {failed[0].user_attrs[REASON]}"
            )
        finished = sum(trial.state == TrialState.COMPLETE for trial in trials)
        return SearchOutcome(
            status="finished",
            tuned=best.user_attrs[SETTINGS],
            value=best.value,
            best=best.number + 1,
            finished=finished,
            pruned=len(trials) - finished - len(failed),
            failed=len(failed),
        )

    def _interrupted(self) -> FrozenTrial | None:
        running = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        return running[0] if running else None

    def _ended(self) -> list[FrozenTrial]:
        return [trial for trial in self.study.get_trials(deepcopy=False) if trial.state.is_finished()]


@contextlib.contextmanager
def open_study(folder: Path, name: str, num_trials: int) -> Iterator[SearchStudy]:
    """Opens the study of a search, or creates it, and holds it.

    Raises:
        InputError: Another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with lock_folder(folder):
        journal = folder / JOURNAL_FILE
        journal.with_name(f"{JOURNAL_FILE}.lock").unlink(
            missing_ok=True
        )  # of a killed process: Optuna would wait for it
        drop_broken_line(journal)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        storage = JournalStorage(JournalFileBackend(str(journal)))
        study = SearchStudy(load_study(storage, name), num_trials)
        if study.has_failed():  # in an earlier start
            optuna.delete_study(study_name=name, storage=storage)
            study = SearchStudy(load_study(storage, name), num_trials)
        yield study


def load_study(storage: JournalStorage, name: str) -> optuna.Study:
    return optuna.create_study(
        storage=storage,
        study_name=name,
        direction="maximize",
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=PRUNED_FROM, n_warmup_steps=PRUNED_AFTER),
    )


def drop_broken_line(journal: Path) -> None:
    """Removes a last line that was not written to its end; Optuna could not read the journal after it has added another."""
    if journal.is_file() and not (content := journal.read_bytes()).endswith(b"\n"):
        with journal.open("r+b") as file:
            file.truncate(content.rfind(b"\n") + 1)
