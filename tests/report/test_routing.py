"""The routing section: what masks have in common, and which units serve no route, beside the association of labels."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from helpers.report_runs import binary_tasks, draw_labels, write_run
from helpers.run_configs import build_config
from helpers.shard_sets import ShardSet
from matl_scale.errors import InputError
from matl_scale.models.routing_config import RoutingConfig, Setting
from matl_scale.report.mask_association import describe_association, summarise_following
from matl_scale.report.mask_overlap import mask_overlap, measure_usage, read_masks
from matl_scale.report.page.routing_section import build_routing_section
from matl_scale.routing.masks import Strategy
from matl_scale.routing.router import TaskRouter
from matl_scale.runs.checkpoints.network import open_network, restore_network
from matl_scale.runs.history import RunHistory
from matl_scale.runs.layout import RunFolder
from matl_scale.train.process_group import build_accelerator
from matl_scale.train.run import train
from matl_scale.train.step.train_step import TrainConfig

MASKS = {
    "first": np.array([[1, 1, 0, 0], [1, 0, 1, 0], [1, 1, 0, 0]], dtype=bool),
    "second": np.array([[1, 0], [0, 1], [1, 0]], dtype=bool),
}


def test_overlap_and_use_are_counted() -> None:
    np.testing.assert_allclose(mask_overlap(MASKS), [[1, 1 / 3, 1], [1 / 3, 1, 1 / 3], [1, 1 / 3, 1]])
    first, second = measure_usage(MASKS)
    assert (first.units, first.active, first.unused) == (4, 2, 1)
    assert first.routes_per_unit.tolist() == [3, 2, 1, 0]
    assert (second.units, second.active, second.unused) == (2, 1, 0)


@pytest.mark.parametrize(("routes", "strategy"), [("task", "random"), (5, "random"), ("task", "affinity")])
def test_a_run_stores_the_masks_of_its_network(
    small_set: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, routes: Setting, strategy: Strategy
) -> None:
    monkeypatch.chdir(tmp_path)
    config = build_config(
        tmp_path,
        small_set,
        "run",
        train=TrainConfig(steps=2, precision="fp32"),
        routing=RoutingConfig(sigma=0.25, routes=routes, strategy=strategy),
    )
    config = replace(config, data=replace(config.data, path=os.path.relpath(str(small_set.root))))
    train(config, build_accelerator("fp32"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    masks = read_masks(config.run.folder)
    assert masks is not None
    model = restore_network(open_network(config.run.folder), build_accelerator("fp32").device)
    trunk = model.trunk
    routers = {name: module for name, module in trunk.named_modules() if isinstance(module, TaskRouter)}
    assert {f"routers.{name}" for name in masks} == set(routers)
    for name, mask in masks.items():
        np.testing.assert_array_equal(mask, routers[f"routers.{name}"].mask.numpy())
    run = RunHistory(config.run.folder)
    assert tuple(run.routes) == model.routes.names
    names = small_set.manifest.task_names
    assert [run.routes[name] for name in run.routes] == [[names[i] for i in tasks] for tasks in model.routes.tasks_of]
    section = build_routing_section(run, run.latest("val"))
    assert section is not None
    assert len(section.figures) == 2
    [text] = [text for text in section.paragraphs if "Rank correlation of overlap and label association" in text]
    assert ("the strategy affinity gives routes the more units in common" in text) == (strategy == "affinity")
    line = summarise_following(run, list(run.route_of))
    assert line.startswith("mask overlap of routes ") == (strategy == "affinity")
    if line:
        assert line.split()[-1] == text.split("pairs: ")[1].split(". ")[0]  # the same number
    *by_route, by_layer = section.tables
    assert len(by_layer.rows) == len(masks)
    assert len(by_route) == run.shares_routes


def test_pairs_of_unknown_association_are_left_out_and_counted() -> None:
    overlap, association = np.array([0.5, 0.6, 0.7, 0.4]), np.array([0.1, 0.2, 0.3, np.nan])
    [text] = describe_association(overlap, association, "affinity")
    assert "over 3 pairs: +1.000" in text
    assert "Of 1 pairs the association is unknown; they count as unrelated, and have 40.0% of their units" in text
    [text] = describe_association(overlap, association, "random")
    assert text.endswith("Masks that do not depend on labels have about 0, give or take 0.71.")
    [text] = describe_association(overlap, np.full(4, np.nan), "affinity")
    assert "cannot be compared" in text


def test_without_masks_or_shards_it_says_so(tmp_path: Path) -> None:
    tasks = binary_tasks("a", "b", "c")
    labels = draw_labels(20, tasks)
    write_run(tmp_path / "run", tasks, labels, labels, config={"data": {"path": str(tmp_path / "gone"), "version": ""}})
    run = RunHistory(tmp_path / "run")
    latest = run.latest("test")
    assert build_routing_section(run, latest) is None
    masks_file = RunFolder(run.folder).masks_file
    np.savez_compressed(masks_file, **MASKS)
    section = build_routing_section(run, latest)
    assert section is not None
    assert section.paragraphs[0] == "A route has 50.0% of the 6 units of routed layers. 1 units serve no route."
    assert "the shard set is no longer there" in section.paragraphs[-1]
    whole = masks_file.read_bytes()
    for content in (b"no masks", b"", whole[:100], whole[:80] + b"x" + whole[81:]):
        masks_file.write_bytes(content)
        with pytest.raises(InputError, match=r"masks\.npz cannot be read"):
            read_masks(run.folder)
