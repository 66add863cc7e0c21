"""How far probabilities are from frequencies."""

import numpy as np

NUM_INTERVALS = 15  # of the probabilities from 0 to 1


def expected_calibration_error(
    probabilities: np.ndarray, counts: np.ndarray, true: np.ndarray, num_intervals: int = NUM_INTERVALS
) -> np.ndarray:
    """Returns the expected calibration error of each row: the mean distance of probability and frequency over equal intervals of
    the probability (Naeini, Cooper, Hauskrecht, *Obtaining Well Calibrated Probabilities Using Bayesian Binning*, AAAI 2015).

    Args:
        probabilities: Shape `(num_rows, num_values)`.
        counts: How many samples have that probability, same shape.
        true: How many of them are of the class whose probability it is.
    """
    interval = np.clip((probabilities * num_intervals).astype(np.int64), 0, num_intervals - 1)
    rows = np.arange(len(probabilities))[:, None] * num_intervals
    difference = np.bincount(
        (rows + interval).ravel(), (counts * probabilities - true).ravel(), len(probabilities) * num_intervals
    )
    with np.errstate(invalid="ignore"):
        error: np.ndarray = np.abs(difference).reshape(-1, num_intervals).sum(axis=1) / counts.sum(axis=1)
    return error
