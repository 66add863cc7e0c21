"""`data.missing`: what training takes for labels that are not there, that nothing else sees them, and what the run records."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from helpers.run_configs import build_config
from helpers.shard_sets import ShardSet
from matl_scale.data.loading.config import DataConfig
from matl_scale.data.loading.missing import SOFT, choose_fills, fill_missing
from matl_scale.data.loading.plan import RouteOrder
from matl_scale.data.shards.labels import Labels
from matl_scale.errors import InputError
from matl_scale.models.routing_config import RoutingConfig
from matl_scale.routes import Routes
from matl_scale.runs.checkpoints.checkpoint import open_checkpoint
from matl_scale.runs.history import RunHistory
from matl_scale.tasks import Task
from matl_scale.train.losses.config import LossConfig
from matl_scale.train.process_group import build_accelerator
from matl_scale.train.run import train
from matl_scale.train.step.train_step import TrainConfig

TASKS = [Task(name=name, classes=tuple("abc"[:count])) for name, count in (("a", 2), ("b", 2), ("c", 3))]
ALONE, ONE = Routes.one_per_task("abc"), Routes.build(["all"], [0, 0, 0])
NEGATIVE, MIXED = {"[ab]": "negative"}, {"*": "soft", "a": "negative", "b": "ignore"}


def draw_labels(num_samples: int = 5000) -> np.ndarray:
    generator = np.random.default_rng(0)
    labels = np.stack([generator.integers(0, task.num_classes, num_samples) for task in TASKS], axis=1)
    return np.where(generator.random(labels.shape) < 0.7, -1, labels).astype(np.int8)


def test_missing_labels_are_filled_by_pattern() -> None:
    assert choose_fills("ignore", TASKS, 0.0).tolist() == [-1, -1, -1]
    assert choose_fills("soft", TASKS, 0.0).tolist() == [SOFT, SOFT, SOFT]
    fills = choose_fills(MIXED, TASKS, 0.0)
    assert fills.tolist() == [0, -1, SOFT]
    assert choose_fills(MIXED, TASKS, 0.0, hidden=[0]).tolist() == [-1, -1, SOFT]
    labels = np.array([[-1, -1, -1], [1, 0, 2], [0, 1, -1]], dtype=np.int8)
    assert fill_missing(labels, fills).tolist() == [[0, -1, SOFT], [1, 0, 2], [0, 1, SOFT]]


@pytest.mark.parametrize("routes", [ALONE, ONE])
def test_a_filled_task_has_every_sample_of_the_split(routes: Routes) -> None:
    labels = draw_labels()
    filled = fill_missing(labels, choose_fills(MIXED, TASKS, 0.0))
    order = RouteOrder(0, 8, Labels.of_matrix(labels), routes, 0.0, choose_fills(MIXED, TASKS, 0.0))
    expected = [(filled[:, tasks] != -1).any(axis=1).sum() for tasks in routes.tasks_of]
    assert order.count_samples().tolist() == expected
    shares = [(filled[:, task] != -1).sum() / expected[route] for task, route in enumerate(routes.route_of)]
    np.testing.assert_allclose(order.label_shares(), shares)
    epoch = np.concatenate([order.batch(0, number) for number in range(len(labels) // 8)])
    assert sorted(epoch.tolist()) == list(range(len(labels)))


def test_balanced_draws_count_filled_negatives_as_negatives() -> None:
    labels = draw_labels()
    order = RouteOrder(0, 200, Labels.of_matrix(labels), ALONE, 1.0, choose_fills(NEGATIVE, TASKS, 1.0))
    counts, shares = order.class_shares(0)
    assert counts.tolist() == [(labels[:, 0] < 1).sum(), (labels[:, 0] == 1).sum()]
    assert shares.tolist() == [0.5, 0.5]
    drawn = labels[np.concatenate([order.batch(0, number) for number in range(20)]), 0]
    assert (drawn == 1).mean() == pytest.approx(0.5, abs=0.05)
    assert (drawn == -1).sum() > (drawn == 0).sum() > 0


@pytest.mark.parametrize(
    ("missing", "balance", "message"),
    [
        ("negative", 0.0, r"`data\.missing` negative is for tasks with two classes.*1 tasks have more: c\."),
        ({"d*": "soft"}, 0.0, r"`data\.missing` should match names of tasks\. `d\*` matches none"),
        (MIXED, 0.5, r"`data\.balance` should be 0 with `data\.missing` soft.*Soft are c\."),
    ],
)
def test_what_does_not_fit_the_tasks_is_refused(missing: Any, balance: float, message: str) -> None:
    with pytest.raises(InputError, match=message):
        choose_fills(missing, TASKS, balance)


def test_an_unknown_way_is_refused() -> None:
    with pytest.raises(InputError, match=r"`data\.missing` should be one of ignore, negative, soft\. Got 'negatve'"):
        DataConfig(missing={"*": "negatve"})


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"missing": "negative"}, r"2 tasks have more: task_2, task_4\."),
        ({"loss": LossConfig(name="asymmetric")}, r"`loss\.name` asymmetric is for tasks with two classes"),
        ({"loss": LossConfig(class_weight={"task_0": {"True": 2.0}})}, "YAML reads yes, no, on and off"),
    ],
)
def test_a_run_is_refused_before_it_has_a_folder(
    sections: dict[str, Any], message: str, small_set: ShardSet, tmp_path: Path
) -> None:
    config = build_config(tmp_path, small_set, "refused", **{k: v for k, v in sections.items() if k != "missing"})
    config = replace(config, data=replace(config.data, missing=sections.get("missing", "ignore")))
    with pytest.raises(InputError, match=message):
        train(config, build_accelerator("fp32"))
    assert not (config.run.folder / "config.yaml").exists()


@pytest.fixture(scope="module")
def filled_run(small_set: ShardSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs over all samples, each task on a route of its own; task 1 ignores missing labels."""
    config = build_config(
        tmp_path_factory.mktemp("filled"),
        small_set,
        "filled",
        data=DataConfig(
            path=str(small_set.root), batch_size=20, workers=0, missing={"task_[035]": "negative", "task_[24]": "soft"}
        ),
        routing=RoutingConfig(routes="task"),
        train=TrainConfig(steps=6, precision="fp32", accumulate=6),
        loss=LossConfig(class_weight={"task_0": "inverse", "task_2": "sqrt"}, name={"task_3": "logit_adjusted"}),
    )
    # rounds: in six steps of six slots each route has six batches
    train(replace(config, tasks=replace(config.tasks, policy="rounds")), build_accelerator("fp32"))
    return config.run.folder


def test_filled_labels_are_trained_on_and_counted_nowhere(filled_run: Path, small_set: ShardSet) -> None:
    history, manifest = RunHistory(filled_run), small_set.manifest
    labels = manifest.labels()
    train_labels, val_labels = (labels[manifest.sample_ids(split)] for split in ("train", "val"))
    latest = history.latest("val")
    # six batches of 20 are two epochs of the 60 samples; task 1 draws its labelled samples alone
    expected = 2 * (train_labels >= 0).sum(axis=0)
    others = [0, 2, 3, 4, 5]
    assert latest.labels_seen is not None
    assert latest.labels_seen[others].tolist() == expected[others].tolist()
    assert latest.labels_seen[1] == 6 * 20
    assert latest.metrics.counts.tolist() == (val_labels >= 0).sum(axis=0).tolist()
    np.testing.assert_array_equal(history.predictions("val").labels, val_labels)
    assert [record["train/labelled_share"] for record in history.records if "train/labelled_share" in record] == [
        1.0
    ] * 6


def test_a_run_keeps_weights_and_prior_offsets_of_the_tasks_that_have_some(
    filled_run: Path, small_set: ShardSet
) -> None:
    labels = small_set.manifest.labels()[small_set.manifest.sample_ids("train")]
    offsets = open_checkpoint(filled_run).prior_offsets
    assert list(offsets) == ["task_0", "task_2", "task_3"]
    frequencies = np.array([(labels[:, 0] < 1).sum(), (labels[:, 0] == 1).sum()]) / len(labels)
    np.testing.assert_allclose(offsets["task_0"], np.log(frequencies) - np.log(0.5))
    frequencies = np.array([(labels[:, 3] < 1).sum(), (labels[:, 3] == 1).sum()]) / len(labels)
    np.testing.assert_allclose(offsets["task_3"], np.log(frequencies))
    counts = np.array([(labels[:, 2] == c).sum() for c in range(3)])
    differences = np.log(counts) / 2  # log(n) − log(n / √n), up to a constant
    np.testing.assert_allclose(np.diff(offsets["task_2"]), np.diff(differences))
    rows = pq.read_table(filled_run / "balance.parquet").to_pylist()
    assert [row["task"] for row in rows] == ["task_0"] * 2 + ["task_2"] * 3 + ["task_3"] * 2
    assert [row["samples"] for row in rows[2:5]] == counts.tolist()
    assert sum(row["share"] * row["weight"] for row in rows[:2]) == pytest.approx(1)
