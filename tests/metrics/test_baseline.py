"""Which tasks are better than a constant answer beyond chance: against scipy's exact test, a slow correction, and chance."""

import math
from itertools import permutations

import numpy as np
import pytest
from scipy import stats

from matl_scale.metrics.baseline import (
    FEW,
    MOST_EXPECTED,
    baseline_p,
    baseline_p_values,
    beats_baseline,
    chances_of_sums,
    count_highest_ranked,
    smallest_p_values,
)


def count(labels: np.ndarray, answers: np.ndarray, num_classes: int = 2) -> np.ndarray:
    """Returns the confusion, true × predicted."""
    return np.bincount(labels * num_classes + answers, minlength=num_classes**2).reshape(num_classes, num_classes)


def one_against_all(confusion: np.ndarray, which: int) -> list[list[int]]:
    hits = confusion[which, which]
    missed, false = confusion[which].sum() - hits, confusion[:, which].sum() - hits
    return [[hits, missed], [false, confusion.sum() - hits - missed - false]]


@pytest.mark.parametrize("num_classes", [2, 3, 7])
def test_p_is_that_of_fishers_exact_test(num_classes: int) -> None:
    generator = np.random.default_rng(num_classes)
    confusions = []
    for num_samples in (2, 5, 40, 300):
        for share in (0.1, 0.5, 0.9):
            labels = generator.binomial(num_classes - 1, share, num_samples)
            guesses = generator.integers(0, num_classes, num_samples)
            answers = np.where(generator.random(num_samples) < 0.3, labels, guesses)
            confusions.append(count(labels, answers, num_classes))
    found = baseline_p_values(confusions)
    for confusion, p in zip(confusions, found.tolist(), strict=True):
        present = np.flatnonzero(confusion.sum(axis=1))
        if len(present) < 2:
            assert np.isnan(p)
            continue
        alone = [stats.fisher_exact(one_against_all(confusion, i), alternative="greater").pvalue for i in present]
        expected = alone[1] if num_classes == 2 else min(1, len(present) * min(alone))
        if num_classes > 2 and confusion.sum() / len(present) < FEW:
            expected = min(1, 2 * min(expected, chance_of_sum(with_margins(confusion)[present])))
        assert p == pytest.approx(expected)
        assert baseline_p(confusion) == p


def chance_of_sum(table: np.ndarray) -> float:
    return float(chances_of_sums(table, np.array([0]), np.array([len(table)]))[0])


def slow_chance_of_sum(table: np.ndarray) -> float:
    """The bound of one task, by polynomials."""
    hits, total = int(table[:, 0].sum()), int(table[0, 3])
    expected = (table[:, 1] * table[:, 2]).sum() / total
    if hits <= expected or expected > MOST_EXPECTED:
        return 1.0
    ways = np.ones(1)
    for support, chosen in table[:, 1:3].tolist():
        steps = [(support - j) * (chosen - j) / ((j + 1) * total) for j in range(min(support, chosen))]
        ways = np.convolve(ways, np.cumprod([1.0, *steps]))
    matchings = math.lgamma(total + 1) - math.lgamma(total - hits + 1) - hits * math.log(total)
    return float(min(math.exp(math.log(ways[hits]) - matchings), 1.0))


def test_bounds_of_tasks_together_are_those_of_each_alone() -> None:
    generator, tables = np.random.default_rng(0), []
    for num_classes, num_samples in ((3, 12), (20, 100), (35, 70), (6, 3000), (60, 150)):
        for share in (0.0, 0.2, 0.9):
            labels = generator.integers(0, num_classes, num_samples)
            guesses = generator.integers(0, num_classes, num_samples)
            answers = np.where(generator.random(num_samples) < share, labels, guesses)
            tables.append(with_margins(count(labels, answers, num_classes)))
    counts = np.array([len(table) for table in tables])
    found = chances_of_sums(np.concatenate(tables), np.cumsum(counts) - counts, counts)
    np.testing.assert_allclose(found, [slow_chance_of_sum(table) for table in tables], rtol=1e-11)
    assert ((found > 0) & (found < 1e-3)).any()


def with_margins(confusion: np.ndarray) -> np.ndarray:
    """Returns hits, samples of the class, answers that name it, and all samples, for each class."""
    total = np.full(len(confusion), confusion.sum())
    return np.stack([confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0), total], axis=1)


@pytest.mark.parametrize(("labels", "answers"), [("01233", "01233"), ("012345", "012354"), ("0011222", "0112221")])
def test_chance_of_so_many_hits_is_bounded_by_all_orders_of_the_labels(labels: str, answers: str) -> None:
    true, given = np.array([*map(int, labels)]), np.array([*map(int, answers)])
    hits = [int((np.array(order) == given).sum()) for order in permutations(true.tolist())]
    found = chance_of_sum(with_margins(count(true, given, 6)))
    least = int((true == given).sum())
    exact = np.mean(np.array(hits) >= least)
    ways = np.mean([math.comb(each, least) for each in hits])  # how many sets of so many hits an order has
    assert exact <= found * (1 + 1e-9)
    assert found == pytest.approx(min(ways, 1))


def test_many_classes_of_two_samples_are_learned_together() -> None:
    """Fifty tasks of 35 classes: no class alone could show it, even if all answers were right."""
    generator = np.random.default_rng(0)
    labels = np.arange(70) % 35
    answers = np.where(generator.random((50, 70)) < 0.3, labels, generator.integers(0, 35, (50, 70)))
    assert beats_baseline(baseline_p_values([count(labels, given, 35) for given in answers])).all()
    histograms = [rank(labels, np.eye(35, dtype=int)[given], 35) for given in answers]
    assert np.isfinite(ranking_p_values(histograms)).all()
    certain = (np.eye(35)[labels] * 5 + generator.random((70, 35)) * 6).astype(int)
    assert ranking_p_values([rank(labels, certain, 35)])[0] < 1e-6


def test_holms_correction_is_the_slow_one() -> None:
    generator = np.random.default_rng(0)
    for num_tasks in (1, 2, 10, 50):
        p_values = generator.random(num_tasks) ** 6 * 0.2
        p_values[generator.random(num_tasks) < 0.2] = np.nan
        expected, remaining = np.zeros(num_tasks, dtype=bool), np.flatnonzero(~np.isnan(p_values)).tolist()
        while remaining:
            smallest = min(remaining, key=lambda i: p_values[i])
            if p_values[smallest] * len(remaining) >= 0.05:
                break
            expected[smallest] = True
            remaining.remove(smallest)
        assert beats_baseline(p_values).tolist() == expected.tolist()


@pytest.mark.parametrize("num_classes", [2, 5])
def test_whoever_always_gives_one_answer_has_learned_nothing(num_classes: int) -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, num_classes, 100_000)
    constant = [count(labels, np.full_like(labels, answer), num_classes) for answer in range(num_classes)]
    assert baseline_p_values(constant) == pytest.approx(np.ones(num_classes))


def test_a_perfect_network_has_learned_what_samples_can_tell() -> None:
    """Of three samples of each class, all right by chance once in twenty times: with four, it is beyond chance."""
    p_values = baseline_p_values([np.diag([count, count]) for count in (1, 3, 4, 5000)])
    assert p_values.tolist() == pytest.approx([1 / 2, 1 / 20, 1 / 70, 0])
    assert beats_baseline(baseline_p_values([np.diag([50, 50])] * 1000)).all()
    assert beats_baseline(baseline_p_values([np.diag([20, 30, 40])] * 1000)).all()


def rank(labels: np.ndarray, scores: np.ndarray, num_classes: int = 2) -> np.ndarray:
    """Returns how often each score occurs for the other classes and the class; scores are bins, `(num_samples, num_scores)`."""
    classes = [1] if num_classes == 2 else range(num_classes)
    counts = [
        [np.bincount(scores[(labels == each) == own, i], minlength=scores.max() + 1) for own in (False, True)]
        for i, each in enumerate(classes)
    ]
    return np.array(counts)


def ranking_p_values(histograms: list[np.ndarray]) -> np.ndarray:
    """Returns the p value of each task by its histograms."""
    tests = [count_highest_ranked(histogram) for histogram in histograms]
    return smallest_p_values(np.concatenate([np.zeros((0, 4), int), *tests]), np.array([*map(len, tests)], dtype=int))


@pytest.mark.parametrize("num_classes", [2, 4])
@pytest.mark.parametrize("num_bins", [2000, 7])  # few ties, and many
def test_p_of_a_ranking_is_that_of_its_highest_samples(num_classes: int, num_bins: int) -> None:
    generator = np.random.default_rng(num_bins + num_classes)
    for skill in (0.0, 0.3, 0.6):
        labels = generator.binomial(num_classes - 1, 0.2, 200)
        scores = generator.random((200, 1 if num_classes == 2 else num_classes))
        for i, each in enumerate([1] if num_classes == 2 else range(num_classes)):
            scores[:, i] = skill * (labels == each) + (1 - skill) * scores[:, i]
        bins = (scores * num_bins).astype(int)
        alone = []
        for i, each in enumerate([1] if num_classes == 2 else range(num_classes)):
            own = labels == each
            if own.any():
                lowest = np.sort(bins[:, i])[::-1][own.sum() - 1]
                chosen = bins[:, i] >= lowest  # with all that share the lowest score
                table = [[(own & chosen).sum(), (own & ~chosen).sum()], [(~own & chosen).sum(), (~own & ~chosen).sum()]]
                alone.append(stats.fisher_exact(table, alternative="greater").pvalue)
        (found,) = ranking_p_values([rank(labels, bins, num_classes)])
        assert found == pytest.approx(min(1, len(alone) * min(alone)))


def test_rare_positives_that_are_ranked_well_are_learned_though_never_named() -> None:
    """Scores with an AUROC of 0.99 and 0.5 % positives: nothing is above one half."""
    generator = np.random.default_rng(0)
    labels = (np.arange(10_000) < 50).astype(int)
    scores = generator.normal(size=len(labels)) + 3.3 * labels - 8
    assert (scores < 0).all()
    assert baseline_p(count(labels, (scores > 0).astype(int))) == 1
    assert ranking_p_values([rank(labels, ((scores + 20) * 100).astype(int)[:, None])])[0] < 1e-20


def test_equal_scores_rank_nothing() -> None:
    labels = np.arange(1000) % 2
    assert ranking_p_values([rank(labels, np.zeros((1000, 1), dtype=int))]) == pytest.approx([1.0])
    assert np.isnan(ranking_p_values([rank(np.zeros(9, dtype=int), np.arange(9)[:, None])])).all()
    assert ranking_p_values([]).shape == (0,)


def test_scores_by_chance_seldom_name_a_task() -> None:
    """Of 200 tasks with labels at random, whatever scores, some the same for all tasks."""
    num_seeds, num_tasks, num_samples = 200, 200, 120
    named = 0
    for seed in range(num_seeds):
        generator = np.random.default_rng(seed)
        labels = (generator.random((num_samples, num_tasks)) < generator.uniform(0.01, 0.6, num_tasks)).astype(int)
        scores = generator.integers(0, 300, (num_samples, 1)) + generator.integers(0, 300, (num_samples, num_tasks))
        cells = (np.arange(num_tasks) * 2 + labels) * 600 + scores
        histograms = np.bincount(cells.ravel(), minlength=num_tasks * 1200).reshape(num_tasks, 2, 600)
        p_values = smallest_p_values(count_highest_ranked(histograms), np.ones(num_tasks, dtype=int))
        named += bool(beats_baseline(p_values).any())
    assert named <= 0.05 * num_seeds


def test_a_class_that_does_not_occur_is_not_tested() -> None:
    confusion = np.array([[12, 4, 2], [2, 14, 0], [0, 0, 0]])
    alone = [stats.fisher_exact(one_against_all(confusion, i), alternative="greater").pvalue for i in (0, 1)]
    assert baseline_p(confusion) == pytest.approx(2 * min(alone))
    assert np.isnan(baseline_p(np.array([[5, 5], [0, 0]])))
    assert np.isnan(baseline_p(np.zeros((3, 3), dtype=np.int64)))
    assert baseline_p_values([]).shape == (0,)


@pytest.mark.parametrize("num_classes", [2, 4, 30])
def test_chance_seldom_names_a_task(num_classes: int) -> None:
    """Answers without any relation to the labels, of 200 tasks with classes of any frequency that share their samples."""
    num_seeds, num_tasks, num_samples = 200 if num_classes < 10 else 60, 200, 120
    named = 0
    for seed in range(num_seeds):
        generator = np.random.default_rng([num_classes, seed])
        frequencies, habits = generator.dirichlet(np.full(num_classes, 0.7), (2, num_tasks)).cumsum(axis=2)
        draws = generator.random((2, num_samples, num_tasks, 1))
        labels, answers = ((draws[i] > each[None, :, :-1]).sum(axis=2) for i, each in enumerate((frequencies, habits)))
        confusions = [count(labels[:, i], answers[:, i], num_classes) for i in range(num_tasks)]
        named += bool(beats_baseline(baseline_p_values(confusions)).any())
    assert named <= 0.05 * num_seeds
