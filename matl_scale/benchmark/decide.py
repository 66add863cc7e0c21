"""Suite `decide`: decisions of many binary tasks, beside the loop over tasks that anyone writes with scikit-learn.

The loop fits Platt's scale and bias of each task once. Ours fits scale, bias and threshold of each task, and all of it five times
more for the cross-fitted metrics, which it measures.
"""

import numpy as np

from matl_scale.benchmark.figure import Conditions, Figure, Workload, timed
from matl_scale.benchmark.inputs import binary_tasks
from matl_scale.decisions.aim import Aim
from matl_scale.decisions.fit import fit_decisions
from matl_scale.decisions.samples import ScoredSamples
from matl_scale.extras import require

NUM_TASKS = 1000
NUM_SAMPLES = 10_000


def draw_samples() -> ScoredSamples:
    """Returns tasks with 0.3 to 40 % positives, whose scores are twice their true log-odds."""
    generator = np.random.default_rng(0)
    rates = generator.uniform(0.003, 0.4, NUM_TASKS)
    labels = (generator.random((NUM_SAMPLES, NUM_TASKS)) < rates).astype(np.int16)
    features = generator.normal(size=labels.shape) + 2 * labels
    log_odds = np.log(rates / (1 - rates)) + 2 * features - 2
    return ScoredSamples.build(
        binary_tasks(NUM_TASKS), np.arange(NUM_SAMPLES), labels, (2 * log_odds).clip(-60, 60).astype(np.float16)
    )


def against_loop(conditions: Conditions) -> tuple[Workload, Workload]:  # noqa: ARG001
    require("examples", "sklearn", purpose="The suite decide")
    from sklearn.linear_model import LogisticRegression

    samples = draw_samples()

    def loop() -> None:
        for scores, labels in zip(samples.log_odds.T.astype(np.float64), samples.labels.T, strict=True):
            LogisticRegression(C=np.inf).fit(scores[:, None], labels)

    return loop, lambda: fit_decisions(samples, [Aim("balanced_accuracy")] * NUM_TASKS, {})


def figures(conditions: Conditions) -> list[Figure]:  # noqa: ARG001
    meaning = (
        "Platt scaling of 1,000 tasks × 10,000 samples by scikit-learn, in a loop ÷ all of ours, which takes ≤ 10 s"
    )
    return [Figure("decide_t1000_vs_loop", meaning, timed(against_loop))]
