"""Folds of a shard set: each sample of `train` and `val` is once in `val`, and everything that reads a split follows."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from helpers.run_configs import build_config
from helpers.shard_sets import ShardSet
from matl_scale.data.loading.config import DataConfig
from matl_scale.data.shards.folds import FoldedManifest, deal_out, read_folded
from matl_scale.errors import InputError
from matl_scale.models.routing_config import RoutingConfig
from matl_scale.report.facts import collect_facts
from matl_scale.report.page.run_summary import list_origin
from matl_scale.report.shard_set import open_shard_set
from matl_scale.runs.history import RunHistory
from matl_scale.train.evaluation import EvalConfig
from matl_scale.train.process_group import build_accelerator
from matl_scale.train.run import train
from matl_scale.train.run_data import build_run_data
from matl_scale.train.step.train_step import TrainConfig


def folded(shards: ShardSet, text: str, seed: int = 0) -> FoldedManifest:
    found = read_folded(shards.root, "", text, seed)
    assert isinstance(found, FoldedManifest)
    return found


def draw_digests(count: int) -> np.ndarray:
    return np.frombuffer(np.random.default_rng(0).bytes(16 * count), dtype="V16")


@pytest.mark.parametrize("num_folds", [2, 4, 7])
def test_every_sample_is_once_in_val(num_folds: int, small_set: ShardSet) -> None:
    manifests = [folded(small_set, f"{i}/{num_folds}") for i in range(1, num_folds + 1)]
    whole = np.arange(small_set.manifest.num_samples)
    vals = [manifest.sample_ids("val") for manifest in manifests]
    np.testing.assert_array_equal(np.sort(np.concatenate(vals)), whole)
    assert max(map(len, vals)) - min(map(len, vals)) <= 1
    for manifest, val in zip(manifests, vals, strict=True):
        np.testing.assert_array_equal(manifest.sample_ids("train"), np.setdiff1d(whole, val))
        assert manifest.splits == {"train": len(whole) - len(val), "val": len(val)}
    assert len({manifest.hash_shards(split) for manifest in manifests for split in ("train", "val")}) == 2 * num_folds
    other = folded(small_set, f"1/{num_folds}", seed=1)
    assert set(other.sample_ids("val").tolist()) != set(vals[0].tolist())
    assert other.hash_shards("val") != manifests[0].hash_shards("val")


def test_a_fold_follows_from_the_images_alone_and_equal_ones_are_together() -> None:
    digests = draw_digests(200)
    folds = deal_out(digests, 5, seed=3)
    order = np.random.default_rng(1).permutation(200)
    np.testing.assert_array_equal(deal_out(digests[order], 5, seed=3), folds[order])
    assert Counter(folds.tolist()) == dict.fromkeys(range(5), 40)
    twice = deal_out(np.concatenate([digests, digests[:50]]), 5, seed=3)
    np.testing.assert_array_equal(twice[:50], twice[200:])


def test_other_splits_stay_and_val_need_not_exist(small_set: ShardSet) -> None:
    stored = small_set.manifest
    names = ["test" if name == "val" else name for name in stored.shards["split"].to_pylist()]
    index = stored.shards.schema.get_field_index("split")
    manifest = replace(folded(small_set, "1/3"), shards=stored.shards.set_column(index, "split", pa.array(names)))
    assert manifest.splits == {"train": 40, "val": 20, "test": 30}
    np.testing.assert_array_equal(manifest.sample_ids("test"), stored.sample_ids("val"))
    assert manifest.hash_shards("test") == stored.hash_shards("val")
    within = np.concatenate([manifest.sample_ids(split) for split in ("train", "val")])
    np.testing.assert_array_equal(np.sort(within), stored.sample_ids("train"))
    assert {shard["split"] for shard in manifest.shards_of("val")} == {"train"}


@pytest.mark.parametrize("text", ["0/5", "6/5", "1/1", "5", "a/b", "-1/5", "1/5/2", "1.5/3", "/"])
def test_what_is_no_fold(text: str) -> None:
    with pytest.raises(InputError, match=r"`data\.fold` should be i/k, .* as in 1/5\. Got"):
        DataConfig(fold=text)


def test_more_folds_than_images(small_set: ShardSet) -> None:
    with pytest.raises(InputError, match=r"`data\.fold` = 91/91: .* has 90 samples in train and val, too few"):
        folded(small_set, "91/91").sample_ids("val")


def test_a_stream_has_no_folds() -> None:
    with pytest.raises(InputError, match=r"`data\.reading` should be offsets with `data\.fold`"):
        DataConfig(fold="1/5", reading="stream")


def test_labels_of_a_fold(small_set: ShardSet) -> None:
    """Counts of classes, weights, affinity and the plan are all made of these."""
    data = build_run_data(DataConfig(path=str(small_set.root), fold="2/3", workers=0, image_size=0))
    manifest, matrix = folded(small_set, "2/3"), small_set.manifest.labels()
    for split in ("train", "val"):
        expected = matrix[manifest.sample_ids(split)]
        labels = data.labels_of(split)
        assert labels.samples.is_scattered
        np.testing.assert_array_equal(labels.at(np.arange(len(expected))), expected)
        np.testing.assert_array_equal(data.count_labelled(split), (expected >= 0).sum(axis=0))
    assert data.count_tars("val") == len(small_set.manifest.shards)


def test_a_run_with_a_fold(small_set: ShardSet, tmp_path: Path) -> None:
    config = build_config(
        tmp_path,
        small_set,
        "fold",
        data=DataConfig(path=str(small_set.root), batch_size=6, workers=0, fold="3/3"),
        routing=RoutingConfig(sigma=1.0, routes="one"),
        train=TrainConfig(steps=2, precision="fp32"),
        eval=EvalConfig(every=0, batch_size=64, predictions=True),
    )
    train(config, build_accelerator("fp32"))
    run = RunHistory(config.run.folder)
    expected = folded(small_set, "3/3").sample_ids("val")
    np.testing.assert_array_equal(run.predictions("val").samples, expected)
    np.testing.assert_array_equal(open_shard_set(run).sample_ids("val"), expected)
    assert ("fold", "3/3") in list_origin(collect_facts(run, "val"))
    other = replace(config, data=replace(config.data, fold="2/3"))
    with pytest.raises(InputError, match=r"was trained with `data\.fold` = '3/3', not '2/3'"):
        train(other, build_accelerator("fp32"))
