"""Differences of single tasks over a few seeds: each task's variance borrows strength from those of the other tasks.

Three seeds say little about the noise of one task, but hundreds of tasks say much about what noise is usual.

Source: Smyth, *Linear models and empirical Bayes methods for assessing differential expression in microarray experiments*,
Statistical Applications in Genetics and Molecular Biology 3, 2004 (limma). Three cautions are added, because with three seeds,
tasks of one network and metrics of few samples the method as published calls equal arms different far too often: tasks count as
fewer if they rise and fall together, the prior is a standard error weaker than its estimate, and tasks without visible noise
weaken it further. `tests/report/test_sweep_statistics.py` simulates sweeps, and holds this to 5 %.
"""

from dataclasses import dataclass

import numpy as np
from scipy import special

from matl_scale.report.sweep.two_way import TwoWayFit

MIN_TASKS = 3  # with fewer there is nothing to borrow from
HIDDEN = 0.1  # the variance of a task without visible noise, as a share of the smallest that is seen


@dataclass(frozen=True, kw_only=True)
class Noise:
    """The noise of every task, as tests use it."""

    variances: np.ndarray  # moderated variances of the error, shape `(num_tasks,)`
    freedom: float  # degrees of freedom of these; 0 if nothing can be told

    def p_values(self, differences: np.ndarray, scale: float) -> np.ndarray:
        """Returns p of differences, two-sided, shape `(num_tasks,)`; NaN if nothing can be told.

        No difference has p = 1, whatever the variance. `scale` is the variance of a difference over that of the error.
        """
        if not self.freedom:
            return np.full(len(differences), np.nan)
        with np.errstate(divide="ignore", invalid="ignore"):  # a task may have no noise
            t = np.where(differences == 0, 0.0, np.abs(differences) / np.sqrt(self.variances * scale))
        p: np.ndarray = 2 * special.stdtr(self.freedom, -t)
        return p


def moderate(fit: TwoWayFit) -> Noise:
    """Moderates the variances of all tasks.

    Metrics of few samples move in steps, which hides the noise of some tasks: three seeds may differ by the same step, or all
    runs get everything right. That is no rarity among hundreds of tasks. For the prior, such a task has little noise, which makes
    what is learnt from other tasks less certain; its own noise is taken to be the usual one.
    """
    freedom, variances = fit.freedom, fit.variances
    noisy = variances > 0
    if not freedom or noisy.sum() < MIN_TASKS:
        return Noise(variances=variances, freedom=freedom)
    positive = np.where(noisy, variances, HIDDEN * variances[noisy].min())
    first_guess = shrink(positive, freedom, *fit_prior(positive, freedom))
    effective = effective_tasks(fit.residuals[:, noisy] / np.sqrt(first_guess[noisy]))
    prior_variance, prior_freedom = fit_prior(positive, freedom, effective)
    visible = np.where(noisy, variances, max(prior_variance, positive.min()))
    # not more than what the variance of all tasks together is worth, as in limma, but of effective ones
    known = min(prior_freedom + freedom, freedom * effective)
    return Noise(variances=shrink(visible, freedom, prior_variance, prior_freedom), freedom=known)


def shrink(variances: np.ndarray, freedom: int, prior_variance: float, prior_freedom: float) -> np.ndarray:
    """Returns the posterior variances: means of the prior's and the task's own, weighted by their degrees of freedom."""
    if np.isinf(prior_freedom):
        return np.full(len(variances), prior_variance)
    return (prior_freedom * prior_variance + freedom * variances) / (prior_freedom + freedom)


def fit_prior(variances: np.ndarray, freedom: int, effective: float = float("inf")) -> tuple[float, float]:
    """Returns the variance and the degrees of freedom of the prior that the true variances are drawn from (Smyth, section 6.2).

    The more the logarithms of the variances spread, beyond what chance does, the less a task can learn from the others. The
    estimate of that spread is raised by its standard error.

    Args:
        variances: Positive, shape `(num_tasks,)`.
        freedom: Degrees of freedom of each.
        effective: How many independent tasks they are worth; without it, nothing is raised.
    """
    by_chance = float(special.polygamma(1, freedom / 2))
    kurtosis = float(special.polygamma(3, freedom / 2)) / by_chance**2  # beyond the normal distribution's
    logs = np.log(variances) - special.digamma(freedom / 2) + np.log(freedom / 2)
    spread, centre = float(logs.var(ddof=1)), float(logs.mean())
    error = max(spread, by_chance) * float(np.sqrt((kurtosis + 2) / effective))
    excess = spread + error - by_chance
    if excess <= 0:
        return float(np.exp(centre)), float("inf")
    half = inverse_trigamma(excess)
    return float(np.exp(centre + special.digamma(half) - np.log(half))), 2 * half


def inverse_trigamma(value: float) -> float:
    """Returns the number whose trigamma is `value`, by Newton's method for the reciprocal, which converges from any start below
    the solution (Smyth, appendix)."""
    y = 0.5 + 1 / value
    for _ in range(50):
        trigamma = float(special.polygamma(1, y))
        step = trigamma * (1 - trigamma / value) / float(special.polygamma(2, y))
        y += step
        if -step / y < 1e-8:
            break
    return y


def effective_tasks(residuals: np.ndarray) -> float:
    """Returns how many independent tasks would know as much about the noise as these tasks do, from 1 to their number.

    That is tr(Σ)² / tr(Σ²) for the covariance Σ of the tasks' errors (Box, *Some theorems on quadratic forms*, Annals of
    Mathematical Statistics 25, 1954). Both are estimated from few residuals of many tasks, without bias (Srivastava, *Some tests
    concerning the covariance matrix in high dimensional data*, Journal of the Japan Statistical Society 35, 2005). One
    degree of freedom cannot tell, and counts as one task.

    Args:
        residuals: Independent numbers, with about the same variance in all tasks, shape `(freedom, num_tasks)`.
    """
    freedom, num_tasks = residuals.shape
    if freedom < 2:
        return 1.0
    gram = residuals @ residuals.T / freedom
    trace, of_square = float(np.trace(gram)), float(np.square(gram).sum())
    square = freedom**2 / ((freedom - 1) * (freedom + 2)) * (of_square - trace**2 / freedom)
    if square <= 0:
        return float(num_tasks)
    return float(np.clip((trace**2 - 2 / freedom * square) / square, 1, num_tasks))
