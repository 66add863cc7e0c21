"""The first part of a run, in which heads are trained alone on the features that the trunk has (`optim.head_warmup`).

Heads that know nothing would pull a trained trunk out of shape (Kumar, Raghunathan, Jones, Ma, Liang, Fine-tuning can distort
pretrained features, ICLR 2022, arXiv 2202.10054).
"""

from dataclasses import dataclass

from matl_scale.train.length import Length

TOLERANCE = 1e-9  # of a share of a run: 0.3 of 10 steps are 3


@dataclass(frozen=True, kw_only=True)
class HeadWarmup:
    """Says in which steps the trunk rests: a pure function of the step and the length of the run."""

    share: float  # of the run; 0 has no such part
    length: Length  # of the run

    def is_over(self, step: int) -> bool:
        """Returns whether the whole network is trained in the step that follows `step` steps."""
        return self.length.progress(step) >= self.share - TOLERANCE
