"""Calibrates the probabilities of one task on the labels that are looked at, so that those of different tasks can be compared.

Without it, a task that was trained on balanced classes, or a network that is too sure of itself, fills the top of a list that is
ranked over all tasks: on Fashion-MNIST with 2 % wrong labels in one-vs-rest tasks, the share of these among as many first
suspects falls from 0.82 to 0.42 if the log-odds are shifted as balanced classes shift them. With it, neither that nor a factor
on the logits changes anything.
"""

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax

LOWEST = -80.0  # log-probability of what the network rules out; keeps products finite
SMALLEST_SCALE = 1e-3  # a network that is wrong more often than right is not turned round
RIDGE = 0.01  # keeps the parameters finite where a class has no sample, or the network makes no mistake


def calibrate(labels: np.ndarray, log_probabilities: np.ndarray) -> np.ndarray:
    """Returns probabilities as likely as a common factor on the log-probabilities and a bias per class can make the labels
    (Platt scaling of two classes; of more, matrix scaling restricted to a multiple of the identity: C. Guo, G. Pleiss, Y. Sun,
    K. Q. Weinberger: On Calibration of Modern Neural Networks, ICML 2017). They are few parameters for many samples, and wrong
    labels among these make the probabilities less sure, as they should be.

    Args:
        labels: Class indices, shape `(num_samples,)`; every sample has a label.
        log_probabilities: Shape `(num_samples, num_classes)`.

    Returns:
        The same shape.
    """
    scores = np.maximum(log_probabilities, LOWEST)
    num_samples, num_classes = scores.shape
    samples, start = np.arange(num_samples), np.append(1.0, np.zeros(num_classes))

    def loss_and_gradient(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        found = log_softmax(parameters[0] * scores + parameters[1:], axis=1)
        slopes = np.exp(found)
        slopes[samples, labels] -= 1
        distance = parameters - start
        loss = -found[samples, labels].sum() + RIDGE / 2 * (distance**2).sum()
        gradient = np.append((slopes * scores).sum(), slopes.sum(axis=0)) + RIDGE * distance
        return loss / num_samples, gradient / num_samples

    bounds = [(SMALLEST_SCALE, None)] + [(None, None)] * num_classes
    best = minimize(loss_and_gradient, start, jac=True, method="L-BFGS-B", bounds=bounds).x
    calibrated: np.ndarray = np.exp(log_softmax(best[0] * scores + best[1:], axis=1))
    return calibrated
