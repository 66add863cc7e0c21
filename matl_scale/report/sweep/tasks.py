"""What each task gains and loses over seeds: against the reference, with its best variant, and by sharing."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from matl_scale.report.significance.paired_counts import LEVEL, adjust_p
from matl_scale.report.sweep.figures import Figures
from matl_scale.report.sweep.moderated import Noise, moderate
from matl_scale.report.sweep.results import Loss, Losses, TaskResult
from matl_scale.report.sweep.set_aside import Fits, fit_nested

ALONE = "single"  # the arm that trains each task alone


@dataclass(frozen=True, kw_only=True)
class TaskModel:
    """The model of all tasks, fitted once."""

    fits: Fits
    noise: Sequence[Noise]  # of each fit
    alpha: float  # the false discovery rate

    @property
    def can_tell(self) -> bool:
        return self.noise[0].freedom > 0

    def are_tied(self, first: int, second: int) -> bool:
        """Returns whether two variants can be compared, through seeds that they share."""
        fit, first, second = self.fits.of_pair(first, second)
        return bool(fit.connected[first, second])

    def differences(self, first: int, second: int) -> np.ndarray:
        """Returns the difference of two variants in each task, shape `(num_tasks,)`; NaN where no seeds tie them."""
        fit, first, second = self.fits.of_pair(first, second)
        return fit.differences(first, second)

    def p_values(self, first: int, second: int) -> np.ndarray:
        """Returns p of the difference of two variants in each task, not corrected, shape `(num_tasks,)`."""
        noise = self.noise[self.fits.find(first, second)]
        fit, first, second = self.fits.of_pair(first, second)
        return noise.p_values(fit.differences(first, second), fit.scale(first, second))

    def half_widths(self, first: int, second: int) -> np.ndarray:
        """Returns half the widths of the 95 % intervals of each task's difference, shape `(num_tasks,)`."""
        noise = self.noise[self.fits.find(first, second)]
        fit, first, second = self.fits.of_pair(first, second)
        if not self.can_tell:
            return np.full(len(noise.variances), np.nan)
        quantile = special.stdtrit(noise.freedom, (1 + LEVEL) / 2)
        widths: np.ndarray = quantile * np.sqrt(noise.variances * fit.scale(first, second))
        return widths


def fit_tasks(figures: Figures, alpha: float, set_aside: list[int]) -> TaskModel:
    """Fits the model of all tasks; the variants that are set aside (`set_aside`) do not count as noise of the others."""
    fits = fit_nested(figures.values, set_aside)
    return TaskModel(fits=fits, noise=[moderate(fit) for fit in fits.fits], alpha=alpha)


def count_changes(model: TaskModel, variant: int, reference: int) -> tuple[int, int] | None:
    """Returns how many tasks are better and worse than with the reference beyond chance; None if it cannot be told."""
    if not model.can_tell or not model.are_tied(variant, reference):
        return None
    differences = model.differences(variant, reference)
    found = adjust_p(model.p_values(variant, reference)) <= model.alpha
    return int((found & (differences > 0)).sum()), int((found & (differences < 0)).sum())


def find_best(model: TaskModel, figures: Figures) -> list[TaskResult]:
    """Returns the best variant of each task, and those that it is not better than beyond chance.

    The best was chosen by its result, so each comparison is corrected for all pairs of variants, and then for the tasks.
    """
    names = [variant.name for variant in figures.variants]
    means = model.fits.whole.means
    best = means.argmax(axis=0)
    num_pairs = max(1, len(names) * (len(names) - 1) // 2)
    beyond = np.zeros(means.shape, dtype=bool)  # variants that the best one is better than
    for chosen in np.unique(best).tolist():
        of_tasks = best == chosen
        for other in range(len(names)):
            # over all tasks, so that the correction does not depend on which variant is best where
            p = adjust_p(np.minimum(1.0, num_pairs * model.p_values(chosen, other)))
            better = (p <= model.alpha) & (model.differences(chosen, other) > 0)
            beyond[other, of_tasks] = better[of_tasks]
    return [
        TaskResult(
            task=task,
            values=means[:, i].tolist(),
            best=names[best[i]],
            tied=[name for j, name in enumerate(names) if j != best[i] and not beyond[j, i]],
        )
        for i, task in enumerate(figures.tasks)
    ]


def find_losses(model: TaskModel, figures: Figures, used: int) -> Losses:
    """Returns the tasks that the arm `single` serves better than the variant `used`, beyond chance; without that arm, those that
    any other variant serves better."""
    arms, names = [variant.arm for variant in figures.variants], [variant.name for variant in figures.variants]
    alone = [i for i, arm in enumerate(arms) if arm == ALONE and i != used]
    others = [i for i in alone or range(len(names)) if i != used and model.are_tied(i, used)]
    tasks = list_losses(model, figures, used, others) if others and model.can_tell else []
    return Losses(
        of=names[used],
        against=[names[i] for i in others],
        alone=bool(alone),
        tasks=sorted(tasks, key=lambda loss: -loss.difference),
        known=bool(others) and model.can_tell,
        asked=len(figures.tasks),
    )


def list_losses(model: TaskModel, figures: Figures, used: int, others: Sequence[int]) -> list[Loss]:
    differences = np.stack([model.differences(i, used) for i in others])
    best = differences.argmax(axis=0)
    columns = np.arange(len(figures.tasks))
    p = np.stack([model.p_values(i, used) for i in others])[best, columns]
    adjusted = adjust_p(np.minimum(1.0, len(others) * p))
    widths = np.stack([model.half_widths(i, used) for i in others])[best, columns]
    return [
        Loss(
            task=figures.tasks[i],
            variant=figures.variants[others[best[i]]].name,
            difference=float(differences[best[i], i]),
            half_width=float(widths[i]),
            p_adjusted=float(adjusted[i]),
        )
        for i in np.flatnonzero((adjusted <= model.alpha) & (differences[best, columns] > 0)).tolist()
    ]
