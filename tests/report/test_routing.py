"""The routing view: what masks have in common, which units serve nobody, beside how labels go together."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from helpers.run_configs import build_config
from helpers.shard_sets import ShardSet
from matl_scale.errors import InputError
from matl_scale.models.network import RoutingConfig
from matl_scale.report.page.mask_overlap import mask_overlap, read_masks, routing_section, use_of_layers
from matl_scale.routing.router import TaskRouter
from matl_scale.runs.checkpoints.network import open_network, restore_network
from matl_scale.runs.history import RunHistory
from matl_scale.train.process_group import build_accelerator
from matl_scale.train.run import train
from matl_scale.train.step.train_step import TrainConfig

MASKS = {
    "first": np.array([[1, 1, 0, 0], [1, 0, 1, 0], [1, 1, 0, 0]], dtype=bool),
    "second": np.array([[1, 0], [0, 1], [1, 0]], dtype=bool),
}


def test_overlap_and_use_are_counted() -> None:
    np.testing.assert_allclose(mask_overlap(MASKS), [[1, 1 / 3, 1], [1 / 3, 1, 1 / 3], [1, 1 / 3, 1]])
    first, second = use_of_layers(MASKS)
    assert (first.units, first.kept, first.dead) == (4, 2, 1)
    assert first.tasks_per_unit.tolist() == [3, 2, 1, 0]
    assert (second.units, second.kept, second.dead) == (2, 1, 0)


def test_a_run_leaves_the_masks_of_its_network(small_set: ShardSet, tmp_path: Path) -> None:
    config = build_config(
        tmp_path, small_set, "run", train=TrainConfig(steps=2, precision="fp32"), routing=RoutingConfig(sigma=0.25)
    )
    train(config, build_accelerator("fp32"))
    masks = read_masks(config.run.folder)
    assert masks is not None
    trunk = restore_network(open_network(config.run.folder), build_accelerator("fp32").device).trunk
    routers = {name: module for name, module in trunk.named_modules() if isinstance(module, TaskRouter)}
    assert {f"routers.{name}" for name in masks} == set(routers)
    for name, mask in masks.items():
        np.testing.assert_array_equal(mask, routers[f"routers.{name}"].mask.numpy())
    run = RunHistory(config.run.folder)
    section = routing_section(run, small_set.manifest.task_names)
    assert section is not None
    assert len(section["figures"]) == 2
    assert any("Rank correlation of overlap and label association" in text for text in section["paragraphs"])
    assert len(section["tables"][0].rows) == len(masks)


def test_without_masks_or_shards_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"data": {"path": str(tmp_path / "gone"), "version": ""}}))
    (tmp_path / "per_task.parquet").write_bytes(b"")
    run = RunHistory.__new__(RunHistory)
    run.folder = tmp_path
    assert routing_section(run, ["a", "b", "c"]) is None
    np.savez_compressed(tmp_path / "masks.npz", **MASKS)
    section = routing_section(run, ["a", "b", "c"])
    assert section is not None
    assert section["paragraphs"][0] == "A task keeps 50.0% of the trunk's 6 units. 1 units serve no task."
    assert "the shard set is not there any more" in section["paragraphs"][-1]
    whole = (tmp_path / "masks.npz").read_bytes()
    for content in (b"no masks", b"", whole[:100], whole[:80] + b"x" + whole[81:]):
        (tmp_path / "masks.npz").write_bytes(content)
        with pytest.raises(InputError, match=r"masks\.npz cannot be read"):
            read_masks(tmp_path)
