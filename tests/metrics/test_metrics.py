"""Per-task metrics against scikit-learn, and that counters add up."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn import metrics as reference

from matl_scale.metrics.counters import TaskCounters
from matl_scale.metrics.names import COUNTED_METRICS, DECIDED_METRICS, METRICS, NOT_LEARNED, RANKED_SUMMARIES
from matl_scale.metrics.scores import NUM_BINS
from matl_scale.metrics.task_metrics import TaskMetrics, describe_means, describe_not_learned


def draw(
    num_samples: int, num_classes: int, seed: int = 0, sharpness: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(num_classes, (num_samples,), generator=generator)
    logits = torch.randn(num_samples, num_classes, generator=generator) * sharpness
    logits[torch.arange(num_samples), labels] += sharpness
    return logits, labels


def count(counters: TaskCounters, task_id: int, logits: torch.Tensor, labels: torch.Tensor) -> None:
    """Counts a batch of one task: `logits` are `(batch, num_classes)`, `labels` `(batch,)`."""
    counters.update(torch.tensor([task_id]), logits[:, None], labels[:, None])


def one_task(logits: torch.Tensor, labels: torch.Tensor, num_classes: int) -> dict[str, float]:
    counters = TaskCounters([num_classes])
    count(counters, 0, logits, labels)
    return {name: values[0] for name, values in counters.compute().values.items()}


@pytest.mark.parametrize("sharpness", [0.3, 1.0, 20.0])
def test_binary_metrics_equal_scikit_learns(sharpness: float) -> None:
    logits, labels = draw(4000, 2, sharpness=sharpness)
    found = one_task(logits, labels, 2)
    predicted, scores = logits.argmax(dim=1), logits[:, 1] - logits[:, 0]
    assert found["accuracy"] == pytest.approx(reference.accuracy_score(labels, predicted))
    assert found["balanced_accuracy"] == pytest.approx(reference.balanced_accuracy_score(labels, predicted))
    assert found["precision"] == pytest.approx(reference.precision_score(labels, predicted))
    assert found["recall"] == pytest.approx(reference.recall_score(labels, predicted))
    assert found["f1"] == pytest.approx(reference.f1_score(labels, predicted))
    assert found["auroc"] == pytest.approx(reference.roc_auc_score(labels, scores), abs=2e-4)
    assert found["average_precision"] == pytest.approx(reference.average_precision_score(labels, scores), abs=2e-3)
    assert found["majority_accuracy"] == pytest.approx(max(labels.float().mean(), 1 - labels.float().mean()))
    assert found["loss"] == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item(), rel=1e-5)


def test_multi_class_metrics_equal_scikit_learns() -> None:
    logits, labels = draw(3000, 5)
    found = one_task(logits, labels, 5)
    predicted, probabilities = logits.argmax(dim=1), logits.double().softmax(dim=1)
    assert found["balanced_accuracy"] == pytest.approx(reference.balanced_accuracy_score(labels, predicted))
    for name, score in (("precision", reference.precision_score), ("recall", reference.recall_score)):
        assert found[name] == pytest.approx(score(labels, predicted, average="macro"))
    assert found["f1"] == pytest.approx(reference.f1_score(labels, predicted, average="macro"))
    one_hot = torch.nn.functional.one_hot(labels, 5)
    ovr = reference.roc_auc_score(labels, probabilities, multi_class="ovr")
    assert found["auroc"] == pytest.approx(ovr, abs=2e-4)
    average = reference.average_precision_score(one_hot, probabilities, average="macro")
    assert found["average_precision"] == pytest.approx(average, abs=2e-3)


def test_counters_of_parts_add_up_to_the_whole() -> None:
    whole, parts = TaskCounters([2, 4]), [TaskCounters([2, 4]) for _ in range(3)]
    for task, num_classes in ((0, 2), (1, 4)):
        logits, labels = draw(301, num_classes)
        count(whole, task, logits, labels)
        for i, part in enumerate(parts):
            count(part, task, logits[i::3], labels[i::3])
    total = TaskCounters([2, 4])
    total.counts = sum(part.counts for part in parts)  # type: ignore[assignment]
    total.losses = sum(part.losses for part in parts)  # type: ignore[assignment]
    assert torch.equal(total.counts, whole.counts)
    for name in COUNTED_METRICS:
        np.testing.assert_allclose(total.compute().values[name], whole.compute().values[name], rtol=1e-12)


@pytest.mark.parametrize("num_classes", [2, 4])
@pytest.mark.parametrize("missing", [0.0, 0.6])
def test_tasks_counted_together_equal_tasks_counted_alone(num_classes: int, missing: float) -> None:
    """Some of five tasks, in another order, with missing labels; one of them has none in the batch."""
    together, alone = TaskCounters([num_classes] * 5), TaskCounters([num_classes] * 5)
    generator = torch.Generator().manual_seed(1)
    task_ids = torch.tensor([4, 0, 3])
    logits, labels = zip(*(draw(200, num_classes, seed) for seed in range(3)), strict=True)
    matrix = torch.stack(labels, dim=1)
    matrix[torch.rand(matrix.shape, generator=generator) < missing] = -1
    matrix[:, 2] = -1
    together.update(task_ids, torch.stack(logits, dim=1), matrix)
    for column, task in enumerate(task_ids.tolist()):
        seen = matrix[:, column] >= 0
        count(alone, task, logits[column][seen], matrix[seen, column])
    assert torch.equal(together.counts, alone.counts)
    torch.testing.assert_close(together.losses, alone.losses, rtol=1e-12, atol=0)
    counts = together.compute().counts
    assert counts.tolist() == [int((matrix[:, 1] >= 0).sum()), 0, 0, 0, int((matrix[:, 0] >= 0).sum())]


def slow_ranking(negative: np.ndarray, positive: np.ndarray) -> tuple[float, float]:
    """Returns AUROC and average precision of one class by its histograms, sample by sample; NaN where undefined."""
    below, above = np.repeat(np.arange(NUM_BINS), negative), np.repeat(np.arange(NUM_BINS), positive)
    if not len(above):
        return float("nan"), float("nan")
    precisions = [(above >= score).sum() / ((above >= score).sum() + (below >= score).sum()) for score in above]
    pairs = [((below < score) + (below == score) / 2).mean() for score in above] if len(below) else [float("nan")]
    return float(np.mean(pairs)), float(np.mean(precisions))


def test_metrics_of_many_tasks_are_those_of_each_alone() -> None:
    """Of 2 to 5 classes, in any order, some without labels, or of one class only."""
    generator = np.random.default_rng(0)
    num_classes = generator.choice([2, 3, 5], 50).tolist()
    together, alone = TaskCounters(num_classes), []
    for task, count_ in enumerate(num_classes):
        logits, labels = draw(int(generator.integers(1, 60)), count_, seed=task, sharpness=float(task % 3))
        labels[torch.from_numpy(generator.random(len(labels)) < 0.4)] = -1
        if task % 10 == 3:
            labels[:] = -1
        elif task % 10 == 7:
            labels.clamp_(max=0)
        count(together, task, logits, labels)
        single = TaskCounters([count_])
        count(single, 0, logits, labels)
        alone.append(single.compute())
        histograms = single.counts[count_**2 :].reshape(-1, 2, NUM_BINS).numpy()
        areas, precisions = np.array([slow_ranking(*each) for each in histograms]).T
        for name, values in (("auroc", areas), ("average_precision", precisions)):
            known = values[np.isfinite(values)]
            expected = known.mean() if len(known) else np.nan
            np.testing.assert_allclose(alone[-1].values[name], [expected], rtol=1e-12)
    found = together.compute()
    assert found.counts.tolist() == [int(each.counts[0]) for each in alone]
    for name in COUNTED_METRICS:
        expected = np.array([each.values[name][0] for each in alone])
        np.testing.assert_allclose(found.values[name], expected, rtol=1e-12, err_msg=name)
        assert np.isfinite(expected).any()


def test_what_is_undefined_is_nan_and_left_out_of_summaries() -> None:
    counters = TaskCounters([2, 2, 2])
    logits, _ = draw(10, 2)
    count(counters, 0, logits, torch.zeros(10, dtype=torch.long))  # no positive
    logits, labels = draw(50, 2)
    count(counters, 2, logits, labels)
    metrics = counters.compute()
    assert metrics.counts.tolist() == [10, 0, 50]
    for name in ("balanced_accuracy", "recall", "f1", "auroc", "average_precision"):
        assert np.isnan(metrics.values[name][0]), name
    assert metrics.values["majority_accuracy"][0] == 1
    assert all(np.isnan(metrics.values[name][1]) for name in set(COUNTED_METRICS) - {"smallest_class"})
    assert metrics.values["smallest_class"].tolist() == [
        0,
        0,
        float((labels == 0).sum().clamp(max=(labels == 1).sum())),
    ]
    assert metrics.summary()["macro_auroc"] == metrics.values["auroc"][2]
    assert metrics.worst() == [2]


def test_a_collapsed_task_is_not_learned() -> None:
    counters = TaskCounters([2, 2, 2])
    labels = torch.tensor([0] * 90 + [1] * 10)
    always_no = torch.tensor([[1.0, 0.0]]).repeat(100, 1)
    perfect = torch.nn.functional.one_hot(labels, 2).float()
    for task, logits in enumerate((always_no, perfect, -perfect)):
        count(counters, task, logits, labels)
    metrics = counters.compute()
    assert metrics.values["balanced_accuracy"].tolist() == [0.5, 1.0, 0.0]
    assert metrics.not_learned.tolist() == [True, False, True]
    assert metrics.worst(2) == [2, 0]
    assert metrics.summary()["tasks_not_learned"] == 2


def draw_metrics(smallest: list[float], **columns: list[float]) -> TaskMetrics:
    """Returns metrics of tasks with so many samples of their smallest class, all metrics random but those given."""
    generator = np.random.default_rng(0)
    values = {name: generator.random(len(smallest)) for name in METRICS}
    values |= {"smallest_class": np.array(smallest)} | {name: np.array(column) for name, column in columns.items()}
    return TaskMetrics(values=values, counts=np.array([100 if count else 0 for count in smallest]))


def test_summaries_are_over_tasks_with_enough_samples_of_each_class() -> None:
    metrics = draw_metrics([5.0, 20.0, 19.0, 0.0, 30.0])
    enough = metrics.select([1, 4])
    limited = replace(metrics, min_count=20)
    differing = {"tasks_not_learned", "tasks_evaluated"}
    found, expected = limited.summary(), enough.summary()
    assert {key: found[key] for key in found.keys() - differing} == {
        key: expected[key] for key in found.keys() - differing
    }
    assert (found["tasks_in_means"], found["tasks_evaluated"]) == (2, 4)
    assert found["tasks_not_learned"] == metrics.summary()["tasks_not_learned"]
    assert describe_means(limited) == "means over 2 of 4 tasks: at least 20 samples of each class"
    assert describe_means(metrics) == ""
    assert limited.worst() == metrics.worst()  # tasks with few samples are still shown
    assert limited.select([0, 1]).summary()["tasks_in_means"] == 1


def test_metrics_of_decisions_are_summarised_where_there_are_any() -> None:
    counted = draw_metrics([9.0, 9.0])
    decided = {name: counted.values[name] for name in DECIDED_METRICS}
    counted = replace(counted, values={name: counted.values[name] for name in COUNTED_METRICS})
    nowhere = counted.with_values(dict.fromkeys(DECIDED_METRICS, np.full(2, np.nan)))
    assert not [key for key in counted.summary() if "decided" in key or key.endswith(("ece", "brier"))]
    assert nowhere.summary() == counted.summary()
    both = counted.with_values(decided)
    assert list(both.values) == list(METRICS)
    added = both.summary().keys() - counted.summary().keys()
    assert added == {
        *(f"{kind}_decided_balanced_accuracy" for kind in ("macro", "median", "p10", "worst")),
        "macro_decided_f1",
        "macro_ece",
        "macro_brier",
    }
    assert both.summary()["macro_ece"] == decided["ece"].mean()
    assert set(RANKED_SUMMARIES) <= both.summary().keys()


def test_metrics_of_an_earlier_version_say_that_the_baseline_is_not_known() -> None:
    metrics = draw_metrics([9.0, 9.0])
    old = replace(metrics, values={name: metrics.values[name] for name in METRICS[:9]})
    assert not old.not_learned.any()
    assert not old.tested.any()
    assert np.isnan(old.summary()["tasks_not_learned"])
    assert describe_not_learned(old) == f"{NOT_LEARNED}: not known, as an earlier version evaluated"
    assert old.summary()["tasks_in_means"] == 2
    limited = replace(old, min_count=3)
    assert limited.summary()["tasks_in_means"] == 0
    assert np.isnan(limited.summary()["macro_accuracy"])
    assert "an earlier version" in describe_means(limited)
