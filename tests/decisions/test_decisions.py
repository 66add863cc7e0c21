"""Decisions against slow references: one task at a time, plain formulas, float64."""

from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize

from helpers.scored_samples import binary_samples, scores_of_classes
from matl_scale.decisions.aim import Aim, choose_aims, parse_aim
from matl_scale.decisions.binary import fit_binary
from matl_scale.decisions.calibration import (
    BIAS_PRECISION,
    SCALE_PRECISION,
    calibrate_binary,
    calibrate_classes,
)
from matl_scale.decisions.calibration_error import expected_calibration_error
from matl_scale.decisions.fit import fit_decisions, measure_decisions
from matl_scale.decisions.histogram import CENTRES, EDGES, count_scores_of, find_bins
from matl_scale.decisions.rule import DecisionRule
from matl_scale.decisions.samples import ScoredSamples, assign_folds
from matl_scale.decisions.table import (
    Decisions,
    DecisionsInfo,
    read_decisions,
    unfitted_decisions,
    write_decisions,
)
from matl_scale.decisions.threshold import PSEUDO_SAMPLES
from matl_scale.errors import InputError
from matl_scale.metrics.scores import NUM_BINS
from matl_scale.tasks import Task

BALANCED, F1, ACCURACY = Aim("balanced_accuracy"), Aim("f1"), Aim("accuracy")


def softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def test_a_rule_gives_probabilities_and_decisions() -> None:
    rule = DecisionRule(
        prior_offsets=np.array([0.3, -0.2, 0.0]),
        scale=0.7,
        biases=np.array([0.1, 0.0, -0.4]),
        decision_offsets=np.array([0.0, 2.0, 0.0]),
    )
    logits = np.random.default_rng(0).normal(size=(50, 3)) * 3
    expected = softmax(0.7 * (logits + rule.prior_offsets) + rule.biases)
    np.testing.assert_allclose(rule.probabilities(logits), expected, rtol=1e-12)
    np.testing.assert_array_equal(rule.decide(logits), (np.log(expected) + rule.decision_offsets).argmax(axis=1))
    np.testing.assert_allclose(rule.scale * logits + rule.shift, rule.calibrated(logits))
    assert rule.threshold is None


def test_a_threshold_is_a_probability() -> None:
    rule = DecisionRule(
        prior_offsets=np.zeros(2), scale=1.0, biases=np.zeros(2), decision_offsets=np.array([0.0, np.log(4.0)])
    )
    assert rule.threshold == pytest.approx(0.2)  # 0.8 / 0.2 = 4
    log_odds = np.log([0.19 / 0.81, 0.21 / 0.79])
    np.testing.assert_array_equal(rule.decide(np.stack([0 * log_odds, log_odds], axis=1)), [0, 1])
    assert DecisionRule.unfitted(2).threshold == 0.5


def test_every_score_lies_in_its_bin() -> None:
    scores = np.random.default_rng(0).normal(size=4000).astype(np.float16) * np.float16(9)
    bins = find_bins(scores)
    assert (EDGES[bins] < scores.astype(float)).all()
    assert (scores.astype(float) <= EDGES[bins + 1]).all()
    assert find_bins(np.array([-60, 60, np.nan], dtype=np.float16)).tolist() == [0, 2047, find_bins(np.zeros(1))[0]]


@pytest.mark.parametrize("num_positives", [3, 40, 400])
def test_calibration_of_two_classes_is_the_penalised_maximum(num_positives: int) -> None:
    rng = np.random.default_rng(num_positives)
    labels = np.arange(1000) < num_positives
    scores = rng.normal(size=1000) * 2 + 3 * labels - 4
    bins = find_bins(scores.astype(np.float16))
    counts = [np.bincount(bins[labels == value], minlength=len(CENTRES)).astype(float)[None] for value in (0, 1)]
    found = calibrate_binary(CENTRES[None], *counts)[0]

    def loss(parameters: np.ndarray) -> float:
        scale, bias = parameters
        odds = scale * CENTRES[bins] + bias
        likelihood = np.logaddexp(0, odds).sum() - odds[labels].sum()
        return float(likelihood + (SCALE_PRECISION * (scale - 1) ** 2 + BIAS_PRECISION * bias**2) / 2)

    best = minimize(loss, [1.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-10})
    np.testing.assert_allclose(found, best.x, atol=1e-3)


def test_a_network_that_ranks_the_wrong_way_round_is_not_turned() -> None:
    counts = np.zeros((1, len(CENTRES)))
    low, high = counts.copy(), counts.copy()
    low[0, 900:1000], high[0, 1100:1200] = 50, 50
    scale, bias = calibrate_binary(CENTRES[None], negatives=high, positives=low)[0]
    assert scale == pytest.approx(0.01)
    assert abs(bias) < 0.1


def test_calibration_of_several_classes_finds_what_was_spoilt() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20_000, 4)) * 2 + np.array([1.0, 0.0, -1.0, 0.5])
    labels = np.array([rng.choice(4, p=p) for p in softmax(logits)])
    spoilt = 3 * (logits - np.array([0.4, 0.0, -0.6, 0.2]))
    scale, *biases = calibrate_classes(spoilt, labels)
    assert scale == pytest.approx(1 / 3, rel=0.03)
    np.testing.assert_allclose(np.array(biases) - biases[1], [0.4, 0.0, -0.6, 0.2], atol=0.08)


@pytest.mark.parametrize(("num_classes", "sign"), [(3, 1), (30, 1), (3, -1)], ids=["few", "many", "turned round"])
def test_calibration_of_several_classes_is_the_penalised_maximum(num_classes: int, sign: int) -> None:
    """Some classes are rare and one is missing; of a network that ranks the wrong way round, the scale is at its bound."""
    rng = np.random.default_rng(1)
    frequencies = np.exp(-np.arange(num_classes) / 3) * (np.arange(num_classes) < num_classes - 1)
    labels = rng.choice(num_classes, size=500, p=frequencies / frequencies.sum())
    logits = sign * (rng.normal(size=(500, num_classes)) + 2 * np.eye(num_classes)[labels]) * 2
    one_hot = np.eye(num_classes)[labels]

    def loss(parameters: np.ndarray) -> float:
        scale, biases = parameters[0], parameters[1:]
        likelihood = np.log((softmax(scale * logits + biases) * one_hot).sum(axis=1)).sum()
        return float((SCALE_PRECISION * (scale - 1) ** 2 + BIAS_PRECISION * biases @ biases) / 2 - likelihood)

    start, bounds = np.eye(1, 1 + num_classes)[0], [(0.01, None), *[(None, None)] * num_classes]
    best = minimize(loss, start, method="L-BFGS-B", bounds=bounds, options={"maxfun": 100_000, "ftol": 1e-12})
    found = calibrate_classes(logits, labels)
    assert loss(found) < best.fun + 1e-3
    np.testing.assert_allclose(found, best.x, atol=0.01)


def metric_of(aim: Aim, labels: np.ndarray, decided: np.ndarray) -> float:
    hits, false = ((labels == 1) & decided).sum(), ((labels == 0) & decided).sum()
    positives, negatives = (labels == 1).sum(), (labels == 0).sum()
    if aim.metric == "balanced_accuracy":
        return float((hits / positives + 1 - false / negatives) / 2)
    if aim.metric == "f1":
        return float(2 * hits / (hits + false + positives))
    return float((hits + negatives - false) / (positives + negatives))


@pytest.mark.parametrize("aim", [BALANCED, F1, ACCURACY], ids=str)
def test_with_many_samples_a_threshold_is_as_good_as_the_best_of_all(aim: Aim) -> None:
    samples = binary_samples(num_tasks=3, num_samples=20_000, rate=0.1, seed=1, spoil=(2.0, -3.0))
    found = fit_decisions(samples, [aim] * 3, {})
    for task_id, rule in enumerate(found.rules):
        scores, labels = samples.log_odds[:, task_id].astype(float), samples.labels[:, task_id]
        decided = rule.decide(np.stack([0 * scores, scores], axis=1)) == 1
        best = max(metric_of(aim, labels, scores > limit) for limit in np.quantile(scores, np.linspace(0, 1, 500)))
        assert metric_of(aim, labels, decided) > best - 0.004
        assert found.measured[f"decided_{aim.metric}"][task_id] > best - 0.02


def test_three_positives_do_not_set_a_threshold() -> None:
    """The threshold that is best for three positives of the split is much worse on others than the fitted one."""
    samples = binary_samples(num_tasks=200, num_samples=2000, rate=0.0015, seed=2, exact=True)
    others = binary_samples(num_tasks=200, num_samples=40_000, rate=0.0015, seed=3, exact=True)
    assert (samples.labels == 1).sum(axis=0).tolist() == [3] * 200
    found = fit_decisions(samples, [BALANCED] * 200, {})
    fitted = measure_decisions(others, found.rules)["decided_balanced_accuracy"]
    greedy = []
    for task_id in range(200):
        scores, labels = samples.log_odds[:, task_id], samples.labels[:, task_id]
        limit = max(scores[labels == 1].min(), -60)  # all three above it, as few others as possible
        own = others.labels[:, task_id]
        greedy.append(metric_of(BALANCED, own, others.log_odds[:, task_id] >= limit))
    assert fitted.mean() > np.mean(greedy) + 0.03
    assert fitted.mean() > 0.8  # the best possible is 0.84
    assert abs(fitted.mean() - found.measured["decided_balanced_accuracy"].mean()) < 0.03  # cross-fitted


def slow_threshold(aim: Aim, negatives: np.ndarray, positives: np.ndarray, expected: list[np.ndarray]) -> float:
    """Returns the threshold of one task by the counts of all bins, tried one after the other: the middle one of the best, as the
    index of a bin."""
    values = []
    for edge in range(NUM_BINS + 1):
        hits, false = positives[edge:].sum(), negatives[edge:].sum()
        hits_expected, false_expected = (each[edge:].sum() for each in expected[::-1])
        share = [
            (seen + PSEUDO_SAMPLES * more / total_more) / (total + PSEUDO_SAMPLES)
            for seen, total, more, total_more in (
                (hits, positives.sum(), hits_expected, expected[1].sum()),
                (false, negatives.sum(), false_expected, expected[0].sum()),
                (hits, hits + false, hits_expected, max(hits_expected + false_expected, 1e-12)),
            )
        ]
        recall, fall_out, precision = share
        if aim.value is None:
            values.append((recall + 1 - fall_out) / 2)
        else:
            values.append(-2 if edge == NUM_BINS else 1 + recall if precision >= aim.value else precision - 1)
    best = max(values)
    first = values.index(best)
    after = next((i for i in range(first, len(values)) if values[i] < best - 1e-12), len(values))
    return (first + after - 1) // 2


@pytest.mark.parametrize("aim", [BALANCED, Aim("precision", 0.6), Aim("precision", 0.99)], ids=str)
def test_a_threshold_is_the_best_of_all_bins(aim: Aim) -> None:
    """Most bins are empty, and left out; of one task the last one is not."""
    rng = np.random.default_rng(0)
    labels = (rng.random((30, 3)) < 0.4).astype(np.int16)
    scores = (rng.normal(size=labels.shape) + labels).astype(np.float16)
    scores[:3, 1] = 60
    found = count_scores_of(labels, scores, np.zeros(30, dtype=np.int64))
    assert found.bins.shape[1] < 40
    fitted = fit_binary(found.counts.sum(axis=1), found.bins, np.zeros(3), [aim] * 3)
    for task in range(3):
        own = find_bins(scores[:, task])
        seen = [np.bincount(own[labels[:, task] == each], minlength=NUM_BINS).astype(float) for each in (0, 1)]
        p = 1 / (1 + np.exp(-(fitted.scale[task] * CENTRES + fitted.bias[task])))
        expected = [sum(seen) * (1 - p), sum(seen) * p]
        assert fitted.limits[task] == EDGES[slow_threshold(aim, *seen, expected)]


@pytest.mark.parametrize("metric", ["precision", "recall"])
def test_precision_or_recall_is_held_on_other_samples(metric: str) -> None:
    samples = binary_samples(num_tasks=4, num_samples=20_000, rate=0.2, seed=4, spoil=(2.0, 1.0))
    others = binary_samples(num_tasks=4, num_samples=20_000, rate=0.2, seed=5, spoil=(2.0, 1.0))
    found = fit_decisions(samples, [Aim(metric, 0.8)] * 4, {})  # type: ignore[arg-type]
    measured = measure_decisions(others, found.rules)
    np.testing.assert_allclose(measured[f"decided_{metric}"], 0.8, atol=0.02)
    assert [rule.note for rule in found.rules] == [""] * 4


def test_an_aim_that_no_threshold_reaches_is_said() -> None:
    samples = binary_samples(num_tasks=1, num_samples=4000, rate=0.05, seed=6, separation=0.5)
    (rule,) = fit_decisions(samples, [Aim("precision", 0.9)], {}).rules
    assert rule.note.startswith("no threshold reaches precision=0.9; the nearest is estimated to have 0.")


def test_tasks_without_both_classes_keep_the_default_and_say_so() -> None:
    samples = binary_samples(num_tasks=3, num_samples=200, rate=0.5, seed=7)
    samples.labels[:, 1], samples.labels[:, 2] = 0, -1
    found = fit_decisions(samples, [BALANCED] * 3, {"task_1": [0.0, -1.0]})
    assert [rule.note for rule in found.rules] == [
        "",
        "not fitted: only class `no` occurs",
        "not fitted: no labelled sample",
    ]
    assert found.rules[1].scale == 1
    assert found.rules[1].prior_offsets.tolist() == [0.0, -1.0]
    assert np.isnan(found.measured["ece"][2])
    assert np.isnan(found.measured["decided_balanced_accuracy"][1])


def test_the_prior_correction_undoes_balanced_sampling() -> None:
    """Scores as they are after training with both classes drawn equally often: corrected alone, they are calibrated."""
    samples = binary_samples(num_tasks=5, num_samples=20_000, rate=0.02, seed=8, spoil=(1.0, np.log(0.98 / 0.02)))
    offsets = {task.name: [np.log(0.98 / 0.5), np.log(0.02 / 0.5)] for task in samples.tasks}
    raw = measure_decisions(samples, [DecisionRule.unfitted(2)] * 5)["ece"]
    corrected = measure_decisions(samples, [DecisionRule.unfitted(2, offsets[task.name]) for task in samples.tasks])
    assert corrected["ece"].mean() < 0.1 * raw.mean()
    fitted = fit_decisions(samples, [BALANCED] * 5, offsets).rules
    assert [rule.scale for rule in fitted] == pytest.approx([1.0] * 5, abs=0.1)
    assert [rule.biases[1] for rule in fitted] == pytest.approx([0.0] * 5, abs=0.3)


def test_calibration_error_and_brier_score_are_those_of_the_samples() -> None:
    samples = binary_samples(num_tasks=2, num_samples=3000, rate=0.3, seed=9, spoil=(2.5, 1.0))
    measured = measure_decisions(samples, [DecisionRule.unfitted(2)] * 2)
    for task_id in range(2):
        p = 1 / (1 + np.exp(-samples.log_odds[:, task_id].astype(float)))
        labels = samples.labels[:, task_id]
        bins = np.minimum((p * 15).astype(int), 14)
        gaps = [abs((p - labels)[bins == each].sum()) for each in range(15)]
        assert measured["ece"][task_id] == pytest.approx(sum(gaps) / 3000, abs=0.002)
        assert measured["brier"][task_id] == pytest.approx(((p - labels) ** 2).mean(), abs=0.002)


def test_several_classes_are_calibrated_and_decided() -> None:
    rng = np.random.default_rng(10)
    prior = np.array([0.8, 0.15, 0.05])
    labels = rng.choice(3, size=6000, p=prior)
    true_logits = np.log(prior) + 1.5 * rng.normal(size=(6000, 3))
    true_logits[np.arange(6000), labels] += 1.5**2  # the posterior of normal features with these means
    tasks = [Task(name="colour", classes=("red", "green", "blue"))]
    scores = scores_of_classes(2 * true_logits)
    samples = ScoredSamples.build(tasks, np.arange(6000), labels[:, None], scores)
    found = fit_decisions(samples, [BALANCED], {})
    assert found.rules[0].scale == pytest.approx(0.5, rel=0.1)
    as_trained = measure_decisions(samples, [DecisionRule.unfitted(3)])
    assert found.measured["decided_balanced_accuracy"][0] > as_trained["decided_balanced_accuracy"][0] + 0.02
    assert found.measured["ece"][0] < 0.5 * as_trained["ece"][0]
    plain = fit_decisions(samples, [ACCURACY], {})
    assert plain.rules[0].decision_offsets.tolist() == [0.0, 0.0, 0.0]
    assert plain.measured["decided_accuracy"][0] >= as_trained["decided_accuracy"][0] - 0.01
    probabilities, decided = softmax(2 * true_logits), (2 * true_logits).argmax(axis=1)
    one_hot = np.eye(3)[labels]
    assert as_trained["brier"][0] == pytest.approx(((probabilities - one_hot) ** 2).sum(axis=1).mean(), abs=0.005)
    assert as_trained["decided_accuracy"][0] == pytest.approx((decided == labels).mean(), abs=0.002)


def normal_classes(frequencies: np.ndarray, num_samples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns labels and the logits of the posterior, for classes that are normal around one corner each."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(len(frequencies), size=num_samples, p=frequencies)
    features = rng.normal(size=(num_samples, len(frequencies)))
    features[np.arange(num_samples), labels] += 2.5
    return labels, np.log(frequencies) + 2.5 * features


def samples_of_classes(labels: np.ndarray, logits: np.ndarray) -> ScoredSamples:
    task = Task(name="kind", classes=tuple(f"kind_{i}" for i in range(logits.shape[1])))
    return ScoredSamples.build([task], np.arange(len(labels)), labels[:, None], scores_of_classes(logits))


def test_a_class_without_samples_is_not_decided_for_everywhere() -> None:
    labels, logits = normal_classes(np.full(20, 1 / 20), 3000, seed=0)
    present = labels < 14
    samples = samples_of_classes(labels[present], logits[present])
    (rule,) = fit_decisions(samples, [BALANCED], {}).rules
    decided = rule.decide(logits[present])
    assert (decided >= 14).mean() < 0.02 + (logits[present].argmax(axis=1) >= 14).mean()
    assert (decided == labels[present]).mean() > (logits[present].argmax(axis=1) == labels[present]).mean() - 0.02


def test_rare_classes_of_many_are_found() -> None:
    frequencies = np.exp(-np.arange(40) / 5)
    frequencies /= frequencies.sum()
    (rule,) = fit_decisions(samples_of_classes(*normal_classes(frequencies, 10_000, seed=0)), [BALANCED], {}).rules
    others = samples_of_classes(*normal_classes(frequencies, 40_000, seed=1))
    found, as_trained = (
        measure_decisions(others, [each])["decided_balanced_accuracy"][0] for each in (rule, DecisionRule.unfitted(40))
    )
    assert found > as_trained + 0.1


def test_part_of_many_samples_is_of_all_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples in the order of their classes, more than a rule is fitted on."""
    labels, logits = normal_classes(np.full(4, 1 / 4), 8000, seed=0)
    order = np.argsort(labels, kind="stable")
    samples = samples_of_classes(labels[order], 2 * logits[order])
    whole = fit_decisions(samples, [BALANCED], {}).rules[0]
    monkeypatch.setattr("matl_scale.decisions.several_classes.MAX_SCORES", 8000)
    part = fit_decisions(samples, [BALANCED], {}).rules[0]
    assert part.scale == pytest.approx(whole.scale, rel=0.1)
    np.testing.assert_allclose(part.biases, whole.biases, atol=0.2)
    np.testing.assert_allclose(part.decision_offsets, whole.decision_offsets, atol=0.2)


@pytest.mark.parametrize("num_classes", [2, 3])
@pytest.mark.parametrize("aim", [BALANCED, F1, ACCURACY, Aim("precision", 0.9), Aim("recall", 0.9)], ids=str)
def test_few_and_odd_samples_give_finite_rules(num_classes: int, aim: Aim) -> None:
    rng = np.random.default_rng(0)
    width = 1 if num_classes == 2 else num_classes
    same_fold = np.flatnonzero(assign_folds(np.arange(60)) == 2)
    tasks = {
        "one of class 1": (np.arange(60) == 7, rng.normal(size=(60, width))),
        "one of class 0": (np.arange(60) != 7, rng.normal(size=(60, width))),
        "two labels, of one fold": (
            np.select([np.arange(60) == same_fold[0], np.arange(60) == same_fold[1]], [0, 1], -1),
            rng.normal(size=(60, width)),
        ),
        "equal scores": (np.arange(60) % 3 == 0, np.zeros((60, width))),
        "a network that has diverged": (np.arange(60) % 3 == 0, np.full((60, width), np.nan)),
        "one sample diverged": (np.arange(60) % 3 == 0, np.where(np.arange(60)[:, None] == 5, np.nan, 1.0)),
        "limits": (np.arange(60) % 3 == 0, rng.choice([-60.0, 60.0], size=(60, width))),
    }
    labels = np.stack([own.astype(np.int16) for own, _ in tasks.values()], axis=1)
    scores = np.concatenate([np.broadcast_to(own, (60, width)) for _, own in tasks.values()], axis=1)
    named = [Task(name=name, classes=("a", "b", "c")[:num_classes]) for name in tasks]
    found = fit_decisions(
        ScoredSamples.build(named, np.arange(60), labels, scores.astype(np.float16)), [aim] * len(tasks), {}
    )
    for task, rule in zip(named, found.rules, strict=True):
        numbers = np.concatenate([[rule.scale], rule.biases, rule.decision_offsets])
        assert np.isfinite(numbers).all(), task.name
    for name in ("decided_accuracy", "decided_balanced_accuracy", "ece", "brier"):
        assert np.isfinite(found.measured[name]).all(), name


def test_what_is_measured_is_what_a_rule_decides() -> None:
    """Scores of exactly 0 too, which half precision makes frequent: both classes are equally probable, the first one counts."""
    scores = np.array([0, 0, 0, 1, -1, 2], dtype=np.float16)[:, None]
    labels = np.array([0, 0, 1, 1, 0, 1], dtype=np.int16)[:, None]
    tasks = [Task(name="a", classes=("no", "yes"))]
    samples, rule = ScoredSamples.build(tasks, np.arange(6), labels, scores), DecisionRule.unfitted(2)
    decided = rule.decide(np.concatenate([0 * scores, scores], axis=1))
    measured = measure_decisions(samples, [rule])["decided_accuracy"][0]
    assert measured == pytest.approx((decided == labels[:, 0]).mean())


def test_nothing_is_measured_where_it_was_fitted() -> None:
    """On scores that say nothing, cross-fitted figures are those of chance, however small the split."""
    samples = binary_samples(num_tasks=300, num_samples=120, rate=0.2, seed=11, separation=0.0)
    measured = fit_decisions(samples, [BALANCED] * 300, {}).measured
    assert abs(np.nanmean(measured["decided_balanced_accuracy"]) - 0.5) < 0.02


def test_folds_depend_on_the_keys_alone() -> None:
    keys = np.random.default_rng(0).permutation(1003)
    folds = assign_folds(keys)
    assert np.bincount(folds).tolist() == [201, 201, 201, 200, 200]
    order = np.argsort(keys)
    np.testing.assert_array_equal(assign_folds(keys[order]), folds[order])
    assert abs(np.corrcoef(assign_folds(np.arange(1000)), np.arange(1000))[0, 1]) < 0.1


def test_expected_calibration_error_by_hand() -> None:
    error = expected_calibration_error(
        np.array([[0.2, 0.9]]), counts=np.array([[10.0, 30.0]]), true=np.array([[5.0, 27.0]])
    )
    assert error.tolist() == pytest.approx([(abs(2 - 5) + abs(27 - 27)) / 40])


@pytest.mark.parametrize("text", ["balanced", "precision", "f1=0.5", "recall=0", "recall=1.5", "precision=high", ""])
def test_aims_that_do_not_exist_are_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"`--aim` should be one of balanced_accuracy, f1, accuracy, precision=0\.9"):
        parse_aim(text, "--aim")


def test_aims_by_pattern() -> None:
    aims = choose_aims({"*": "f1", "rare_*": "recall=0.95"}, ["rare_a", "b"], "decide.aim")
    assert list(map(str, aims)) == ["recall=0.95", "f1"]
    assert choose_aims("accuracy", ["*", "b"], "decide.aim") == [ACCURACY] * 2
    with pytest.raises(InputError, match=r"`decide.aim` should match names of tasks. `c\*` matches none"):
        choose_aims({"c*": "f1"}, ["a", "b"], "decide.aim")


def test_decisions_are_read_back_as_written(tmp_path: Path) -> None:
    samples = binary_samples(num_tasks=2, num_samples=300, rate=0.3, seed=12)
    found = fit_decisions(samples, [BALANCED] * 2, {"task_0": [0.1, 0.2]})
    info = DecisionsInfo(network="abc", step=7, split="val", test_set="x")
    names = [task.name for task in samples.tasks]
    extra = {"ece_as_trained": np.array([0.1, np.nan]), "brier_as_trained": np.array([0.1, 0.2])}
    written = Decisions(
        info=info,
        rules=dict(zip(names, found.rules, strict=True)),
        aims=dict.fromkeys(names, "balanced_accuracy"),
        measured=found.measured | extra,
    )
    write_decisions(tmp_path / "decisions.parquet", written)
    read = read_decisions(tmp_path / "decisions.parquet")
    assert read.info == info
    assert read.aims == written.aims
    for name in names:
        for key, value in vars(written.rules[name]).items():
            np.testing.assert_array_equal(getattr(read.rules[name], key), value)
    for name, column in written.measured.items():
        np.testing.assert_array_equal(read.measured[name], column)
    (tmp_path / "decisions.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(InputError, match=r"decisions.parquet does not hold decisions: .* matl-decide RUN"):
        read_decisions(tmp_path / "decisions.parquet")


def test_without_a_fit_the_most_probable_class_is_decided() -> None:
    decisions = unfitted_decisions({"a": 2, "b": 3}, {"a": [0.0, -2.0]}, "abc", 3)
    assert decisions.info.split == ""
    logits = np.array([[0.0, 1.0], [0.0, 3.0]])
    assert decisions.rules["a"].decide(logits).tolist() == [0, 1]
    np.testing.assert_allclose(decisions.rules["b"].probabilities(np.zeros((1, 3))), 1 / 3)
