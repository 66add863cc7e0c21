"""Which samples routes of several tasks have: the same from the route cache as from the labels."""

import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from helpers.run_configs import build_config
from helpers.shard_sets import ShardSet
from matl_scale.data.loading import route_samples
from matl_scale.data.loading.plan import ALL_ROUTES, RouteOrder
from matl_scale.data.loading.route_samples import open_labelled_samples, open_route_samples
from matl_scale.data.shards.cache_folder import CACHE_VARIABLE
from matl_scale.data.shards.label_marks import RouteCache
from matl_scale.data.shards.labels import Labels
from matl_scale.models.routing_config import RoutingConfig
from matl_scale.routes import Routes
from matl_scale.storage.store import Store
from matl_scale.train.process_group import build_accelerator
from matl_scale.train.resolve import resolve_offline
from matl_scale.train.run import train

NUM_SAMPLES = 3000
ROUTES = Routes.build(["a", "b", "c"], [0, 1, 0, 1, 2])  # the last one has a single task
NO_FILLS = np.full(5, -1)


def build_labels() -> Labels:
    generator = np.random.default_rng(0)
    matrix = np.where(generator.random((NUM_SAMPLES, 5)) < 0.2, generator.integers(0, 2, (NUM_SAMPLES, 5)), -1)
    matrix[512:1024] = -1  # blocks without a label
    return replace(Labels.of_matrix(np.asfortranarray(matrix.astype(np.int8))), origin="a file")


@pytest.fixture(autouse=True)
def caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A set is large from one sample on; returns the folder of caches that are not beside it."""
    monkeypatch.setattr(route_samples, "CACHED_FROM", 1)
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "home"))
    (tmp_path / "set").mkdir()
    return tmp_path / "set/.routes"


def cache_of(folder: Path) -> RouteCache:
    return RouteCache(Store(folder))


def folders(caches: Path) -> list[Path]:
    return sorted(path for path in caches.glob("*") if path.is_dir())


@pytest.mark.parametrize("ids", [np.arange(NUM_SAMPLES), np.arange(NUM_SAMPLES)[5:2900], np.arange(0, NUM_SAMPLES, 3)])
def test_batches_are_the_same(tmp_path: Path, caches: Path, ids: np.ndarray) -> None:
    labels = build_labels().of_samples(ids)
    expected = RouteOrder(0, 32, labels, ROUTES)
    for _ in range(2):  # made, and found
        labelled, notes = open_route_samples(cache_of(tmp_path / "set"), labels, ROUTES, NO_FILLS)
        assert (sorted(labelled), notes) == ([0, 1], [])
        assert len(pickle.dumps(labelled)) < 2000, "a loader process maps the files too"
        order = pickle.loads(pickle.dumps(RouteOrder(0, 32, labels, ROUTES, labelled=labelled)))
        np.testing.assert_array_equal(order.count_samples(), expected.count_samples())
        np.testing.assert_array_equal(order.label_shares(), expected.label_shares())
        for route in range(3):
            for number in (0, 1, 40):
                np.testing.assert_array_equal(order.batch(route, number), expected.batch(route, number))
    assert len(folders(caches)) == 1


def test_each_choice_of_labels_has_its_own(tmp_path: Path, caches: Path) -> None:
    labels, half = build_labels(), np.arange(NUM_SAMPLES // 2)
    others = Routes.build(["a", "b"], [0, 0, 0, 1, 1])
    for number, (chosen, routes) in enumerate(
        [
            (labels, ROUTES),
            (labels, others),
            (labels.of_samples(half), ROUTES),
            (labels.without([0]), ROUTES),
            (replace(labels, origin="another file"), ROUTES),
        ]
    ):
        labelled, _ = open_route_samples(cache_of(tmp_path / "set"), chosen, routes, NO_FILLS)
        assert [labelled[route].count for route in labelled] == [
            chosen.count_samples(routes.tasks_of[route]) for route in labelled
        ]
        assert len(folders(caches)) == number + 1


def test_what_needs_no_cache_has_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caches: Path) -> None:
    cache, labels = cache_of(tmp_path / "set"), build_labels()
    fills = np.array([-1, 0, -1, -1, -1])  # every sample is one of route b
    assert sorted(open_route_samples(cache, labels, ROUTES, fills)[0]) == [0]
    monkeypatch.setattr(route_samples, "CACHED_FROM", 2 * NUM_SAMPLES + 1)
    assert open_route_samples(cache, labels, ROUTES, NO_FILLS) == ({}, [])
    monkeypatch.setattr(route_samples, "CACHED_FROM", 1)
    assert open_route_samples(cache, replace(labels, origin=""), ROUTES, NO_FILLS) == ({}, [])
    assert len(folders(caches)) == 1


def test_a_damaged_one_is_made_anew_and_what_cannot_be_written_is_said(tmp_path: Path, caches: Path) -> None:
    cache, labels = cache_of(tmp_path / "set"), build_labels()
    counts = {route: found.count for route, found in open_route_samples(cache, labels, ROUTES, NO_FILLS)[0].items()}
    (folder,) = folders(caches)
    (folder / "ends.bin").write_bytes(b"")
    labelled, notes = open_route_samples(cache, labels, ROUTES, NO_FILLS)
    assert {route: found.count for route, found in labelled.items()} == counts
    assert notes == [f"the route cache {folder} is damaged, and was made anew"]
    for path in (tmp_path / "other", tmp_path / "home"):
        path.write_text("no folder")
    labelled, notes = open_route_samples(cache_of(tmp_path / "other"), labels, ROUTES, NO_FILLS)
    assert labelled == {}
    assert notes[0].startswith(f"routes of {tmp_path / 'other'} are read without a cache, by every rank for itself: ")


def test_samples_of_all_routes_are_the_same(tmp_path: Path) -> None:
    labels = build_labels()
    labelled, _ = open_labelled_samples(cache_of(tmp_path / "set"), labels, NO_FILLS)
    found, expected = RouteOrder(0, 32, labels, ROUTES, labelled=labelled), RouteOrder(0, 32, labels, ROUTES)
    assert labelled[ALL_ROUTES].count == labels.count_samples()
    for number in (0, 3, 100):
        np.testing.assert_array_equal(found.shared_batch(number), expected.shared_batch(number))


def test_a_set_without_samples_has_none(tmp_path: Path) -> None:
    labels, cache = build_labels().of_samples(np.arange(0)), cache_of(tmp_path / "set")
    marks, _ = cache.open(labels, [ROUTES.tasks_of[0]])
    assert marks is not None
    assert marks.count(0) == 0


def test_a_run_takes_its_samples_from_it(tmp_path: Path, small_set: ShardSet, monkeypatch: pytest.MonkeyPatch) -> None:
    root, losses = tmp_path / "copy", []
    shutil.copytree(small_set.root, root)
    for name, least in (("without", 10**9), ("with", 1)):
        monkeypatch.setattr(route_samples, "CACHED_FROM", least)
        config = build_config(tmp_path, small_set, name, routing=RoutingConfig(sigma=0.5, routes=2, grouping="order"))
        config = replace(config, data=replace(config.data, path=str(root)))
        train(config, build_accelerator("fp32"))
        assert len(folders(root / ".routes")) == 2 * (least == 1), "those of routes, and of all together"
        lines = (config.run.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        losses.append([record["train/loss"] for record in map(json.loads, lines) if "train/loss" in record])
    assert losses[0] == losses[1]
    assert len(losses[0]) == 10
    monkeypatch.setattr(Labels, "has_label", None)  # what is cached is not looked for in the labels
    resolve_offline(config)
