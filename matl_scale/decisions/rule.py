"""The rule by which a task's logits become probabilities and a decision. Needs numpy alone, as a served network does."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class DecisionRule:
    """How the logits of one task become probabilities and a decision. All arrays are float64, of shape `(num_classes,)`.

    Attributes:
        prior_offsets: Added to the logits, so that they fit the class frequencies of the training split and not those that the
            loss and the sampling made of them: log(frequency) − log(frequency as trained).
        scale: The inverse of the temperature (Guo et al., *On Calibration of Modern Neural Networks*, ICML 2017).
        biases: Added after scaling.
        decision_offsets: Added to the log-probabilities; the decision is the class for which the sum is largest.
        note: Why a part of the rule is not fitted, or what it does not reach; empty if there is nothing to say.
    """

    prior_offsets: np.ndarray
    scale: float
    biases: np.ndarray
    decision_offsets: np.ndarray
    note: str = ""

    @classmethod
    def unfitted(cls, num_classes: int, prior_offsets: Sequence[float] | None = None, note: str = "") -> "DecisionRule":
        """Returns the rule of a network as it was trained: the most probable class, after the prior correction if any."""
        zeros = np.zeros(num_classes)
        offsets = zeros if prior_offsets is None else np.array(prior_offsets, dtype=float)
        return cls(prior_offsets=offsets, scale=1.0, biases=zeros, decision_offsets=zeros, note=note)

    @property
    def num_classes(self) -> int:
        return len(self.biases)

    @property
    def threshold(self) -> float | None:
        """The probability of class 1 above which a task of two classes is decided to be of it; None for more classes."""
        if self.num_classes != 2:
            return None
        return float(np.exp(-np.logaddexp(0.0, self.decision_offsets[1] - self.decision_offsets[0])))

    @property
    def shift(self) -> np.ndarray:
        """What is added to scaled logits: `calibrated(logits) = scale * logits + shift`."""
        shift: np.ndarray = self.scale * self.prior_offsets + self.biases
        return shift

    def calibrated(self, logits: np.ndarray) -> np.ndarray:
        """Returns calibrated logits for logits of shape `(…, num_classes)`."""
        calibrated: np.ndarray = self.scale * logits + self.shift
        return calibrated

    def log_probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Returns the logarithms of the calibrated probabilities for logits of shape `(…, num_classes)`."""
        calibrated = self.calibrated(logits)
        shifted = calibrated - calibrated.max(axis=-1, keepdims=True)
        log_probabilities: np.ndarray = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
        return log_probabilities

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Returns calibrated probabilities for logits of shape `(…, num_classes)`."""
        probabilities: np.ndarray = np.exp(self.log_probabilities(logits))
        return probabilities

    def decide(self, logits: np.ndarray) -> np.ndarray:
        """Returns the decided classes, `(…,)`, for logits of shape `(…, num_classes)`."""
        decided: np.ndarray = (self.calibrated(logits) + self.decision_offsets).argmax(axis=-1)
        return decided
