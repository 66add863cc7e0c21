"""Calibration: a scale and biases after which probabilities are as frequent as they say.

Platt (*Probabilistic Outputs for Support Vector Machines*, 1999) for two classes, vector scaling with one scale for more (Guo et
al., *On Calibration of Modern Neural Networks*, ICML 2017). Both are penalised towards scale 1 and biases 0, as if by a normal
prior: the fewer samples of a class there are, the less is changed.
"""

import numpy as np
from scipy.special import expit

SCALE_PRECISION = 10.0  # of the prior of the scale: what about ten samples that are hard to tell say
BIAS_PRECISION = 1.0
MIN_SCALE = 0.01  # a task is never turned round
MAX_STEPS = 50
TOLERANCE = 1e-4  # of a parameter of two classes, and of the loss of several


def calibrate_binary(
    scores: np.ndarray, negatives: np.ndarray, positives: np.ndarray, start: np.ndarray | None = None
) -> np.ndarray:
    """Fits scale and bias of many binary tasks at once, by Newton's method.

    Args:
        scores: Log-odds of class 1, shape `(num_tasks, num_bins)`.
        negatives: How many samples of class 0 have them, same shape.
        positives: How many of class 1.
        start: Where to start, shape `(num_tasks, 2)`; None for scale 1 and bias 0.

    Returns:
        Scale and bias of each task, shape `(num_tasks, 2)`.
    """
    num_tasks = len(scores)
    found = np.tile([1.0, 0.0], (num_tasks, 1)) if start is None else start.copy()
    total = negatives + positives
    loss = binary_loss(found, scores, total, positives)
    for _ in range(MAX_STEPS):
        step = newton_step(found, scores, total, positives)
        size = np.ones((num_tasks, 1))
        for _ in range(20):
            trial = found - size * step
            trial[:, 0] = np.maximum(trial[:, 0], MIN_SCALE)
            new_loss = binary_loss(trial, scores, total, positives)
            worse = new_loss > loss + 1e-9
            if not worse.any():
                break
            size[worse] /= 2
        else:
            trial[worse], new_loss[worse] = found[worse], loss[worse]
        moved = np.abs(trial - found).max(initial=0.0)
        found, loss = trial, new_loss
        if moved < TOLERANCE:
            break
    return found


def binary_loss(parameters: np.ndarray, scores: np.ndarray, total: np.ndarray, positives: np.ndarray) -> np.ndarray:
    """Returns the penalised negative log-likelihood of each task, shape `(num_tasks,)`."""
    scale, bias = parameters[:, :1], parameters[:, 1:]
    calibrated = scale * scores + bias
    likelihood = (total * np.logaddexp(0, calibrated) - positives * calibrated).sum(axis=1)
    penalty = SCALE_PRECISION * (scale - 1) ** 2 + BIAS_PRECISION * bias**2
    loss: np.ndarray = likelihood + penalty[:, 0] / 2
    return loss


def newton_step(parameters: np.ndarray, scores: np.ndarray, total: np.ndarray, positives: np.ndarray) -> np.ndarray:
    """Returns Newton's step of each task, shape `(num_tasks, 2)`."""
    scale, bias = parameters[:, :1], parameters[:, 1:]
    probabilities = expit(scale * scores + bias)
    residuals, weights = total * probabilities - positives, total * probabilities * (1 - probabilities)
    gradient = np.stack(
        [
            (residuals * scores).sum(axis=1) + SCALE_PRECISION * (scale[:, 0] - 1),
            residuals.sum(axis=1) + BIAS_PRECISION * bias[:, 0],
        ],
        axis=1,
    )
    weighted = weights * scores
    hessian = np.empty((len(scores), 2, 2))
    hessian[:, 0, 0] = (weighted * scores).sum(axis=1) + SCALE_PRECISION
    hessian[:, 0, 1] = hessian[:, 1, 0] = weighted.sum(axis=1)
    hessian[:, 1, 1] = weights.sum(axis=1) + BIAS_PRECISION
    step: np.ndarray = np.linalg.solve(hessian, gradient[:, :, None])[:, :, 0]
    blocked = (parameters[:, 0] <= MIN_SCALE) & (step[:, 0] > 0)  # at the bound only the bias moves
    step[blocked] = np.stack([np.zeros(blocked.sum()), gradient[blocked, 1] / hessian[blocked, 1, 1]], axis=1)
    return step


def calibrate_classes(logits: np.ndarray, labels: np.ndarray, start: np.ndarray | None = None) -> np.ndarray:
    """Fits the scale and the biases of one task of several classes, by Newton's method.

    Args:
        logits: Shape `(num_samples, num_classes)`.
        labels: Class indices, shape `(num_samples,)`.
        start: Where to start, shape `(1 + num_classes,)`; None for scale 1 and biases 0.

    Returns:
        The scale, and then the bias of each class.
    """
    num_classes = logits.shape[1]
    found = prior(1 + num_classes)[0] if start is None else start
    of_labels = logits[np.arange(len(labels)), labels].sum()
    true_sums = np.concatenate([[of_labels], np.bincount(labels, minlength=num_classes)])
    loss, probabilities = classes_loss(found, logits, true_sums)
    for _ in range(MAX_STEPS):
        step, gain = newton_step_of_classes(found, logits, probabilities, true_sums)
        if gain < TOLERANCE:
            break
        for _ in range(20):
            trial = found - step
            trial[0] = max(trial[0], MIN_SCALE)
            new_loss, new_probabilities = classes_loss(trial, logits, true_sums)
            if new_loss <= loss:
                break
            step /= 2
        else:
            break
        found, loss, probabilities = trial, new_loss, new_probabilities
    return found


def classes_loss(parameters: np.ndarray, logits: np.ndarray, true_sums: np.ndarray) -> tuple[float, np.ndarray]:
    """Returns the penalised negative log-likelihood, and the probabilities, shape `(num_samples, num_classes)`.

    `true_sums` are the sum of the logits of the true classes, and the number of samples of each class: what the likelihood needs
    of the labels.
    """
    mean, precision = prior(len(parameters))
    calibrated = parameters[0] * logits + parameters[1:]
    highest = calibrated.max(axis=1)
    calibrated -= highest[:, None]
    probabilities = np.exp(calibrated, out=calibrated)
    sums = probabilities.sum(axis=1)
    probabilities /= sums[:, None]
    likelihood = float((highest + np.log(sums)).sum() - parameters @ true_sums)
    return likelihood + float(precision @ (parameters - mean) ** 2) / 2, probabilities


def newton_step_of_classes(
    parameters: np.ndarray, logits: np.ndarray, probabilities: np.ndarray, true_sums: np.ndarray
) -> tuple[np.ndarray, float]:
    """Returns Newton's step, shape `(1 + num_classes,)`, and how much it would lower the loss if that was quadratic."""
    means = np.einsum("nc,nc->n", probabilities, logits)
    mean, precision = prior(len(parameters))
    gradient = np.concatenate([[means.sum()], probabilities.sum(axis=0)]) - true_sums + precision * (parameters - mean)
    hessian = np.empty((len(parameters), len(parameters)))
    hessian[0, 0] = np.einsum("nc,nc,nc->", probabilities, logits, logits) - means @ means
    hessian[0, 1:] = hessian[1:, 0] = np.einsum("nc,nc->c", probabilities, logits) - probabilities.T @ means
    hessian[1:, 1:] = np.diag(probabilities.sum(axis=0)) - probabilities.T @ probabilities
    hessian += np.diag(precision)
    step: np.ndarray = np.linalg.solve(hessian, gradient)
    if parameters[0] <= MIN_SCALE and step[0] > 0:  # at the bound only the biases move
        step = np.concatenate([[0.0], np.linalg.solve(hessian[1:, 1:], gradient[1:])])
    return step, float(gradient @ step) / 2


def prior(num_parameters: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the prior's means and precisions, of the scale and then of each bias."""
    is_scale = np.arange(num_parameters) == 0
    return is_scale.astype(float), np.where(is_scale, SCALE_PRECISION, BIAS_PRECISION)
