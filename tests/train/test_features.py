"""Networks that are trained on features of a set's images."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers.embedded import NAME, SIZE, Embedded
from helpers.run_configs import assert_identical, load_state, saved_state
from helpers.shard_sets import ShardSet
from helpers.sweeps import build_request
from matl_scale.commands.export import main as export
from matl_scale.data.loading.config import DataConfig
from matl_scale.data.loading.feature_batches import FeatureReader
from matl_scale.data.shards.features import read_feature_sets
from matl_scale.deploy.hub.load import load
from matl_scale.errors import InputError
from matl_scale.models.config import ModelConfig
from matl_scale.models.cost import count_forward
from matl_scale.models.logits import find_columns
from matl_scale.models.network import build_model, normalise
from matl_scale.models.routing_config import RoutingConfig
from matl_scale.report.__main__ import main as report
from matl_scale.routes import Routes
from matl_scale.runs.checkpoints.network import open_network, restore_network
from matl_scale.runs.layout import TRUNK_FILE
from matl_scale.runs.sweep_folder import SweepPlan
from matl_scale.storage.files import file_sha256
from matl_scale.storage.store import Store
from matl_scale.sweep.arms import BUILT_IN
from matl_scale.sweep.open_sweep import open_sweep
from matl_scale.tracking.recorder import TrackConfig
from matl_scale.train.config import Config, RunConfig, with_settings
from matl_scale.train.evaluation import EvalConfig
from matl_scale.train.process_group import build_accelerator
from matl_scale.train.resolve import resolve_offline
from matl_scale.train.run import train
from matl_scale.train.schedule import CheckpointConfig
from matl_scale.train.step.optim import OptimConfig
from matl_scale.train.step.train_step import TrainConfig


def config_of(embedded: Embedded, folder: Path, name: str, **model: Any) -> Config:
    """A run on features: two routes if it has layers, else heads alone."""
    return Config(
        run=RunConfig(name=name, dir=str(folder), seed=3),
        data=DataConfig(path=str(embedded.root), batch_size=8),
        model=ModelConfig(name="features", **model),
        routing=RoutingConfig(sigma=0.5, routes=2) if model.get("hidden") else RoutingConfig(),
        train=TrainConfig(steps=20, precision="fp32"),
        optim=OptimConfig(lr=0.01, warmup_steps=2),
        eval=EvalConfig(every=0),
        checkpoint=CheckpointConfig(every=10),
        track=TrackConfig(mlflow=False, every=1),
    )


@pytest.mark.parametrize("hidden", [[], [24, 16]])
def test_a_network_on_features_is_put_together_with_its_trunk(
    embedded: Embedded, tmp_path: Path, hidden: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    """Its logits of images are those of its layers and heads for the features of these images, as computed here by hand."""
    config = config_of(embedded, tmp_path, "run", hidden=hidden)
    train(config, build_accelerator("fp32"))
    layers = "layers of 24, 16 units" if hidden else "heads alone"
    weights = file_sha256(embedded.weights)[:8]
    said = capsys.readouterr().err
    assert f"{layers} on 512 features of {NAME} (weights {weights}…), of images of {SIZE} pixels" in said
    checkpoint = open_network(config.run.folder)
    model = restore_network(checkpoint, torch.device("cpu"))
    state = load_state(checkpoint.folder)["model"]
    images = torch.randint(0, 256, (5, 3, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    expected = {}
    with torch.no_grad():
        features = embedded.backbone(normalise(images)).double()
        for route_id in range(model.routes.num_routes):
            found = model(model.normalise(images), route_id)
            hand = heads_by_hand(state, features, route_id, model.routes.heads_of[route_id], hidden)
            torch.testing.assert_close(found.double(), hand, rtol=1e-4, atol=1e-5)
            expected[route_id] = hand
    assert export(["--run", str(config.run.folder), "--out", str(tmp_path / "hub"), "--format", "hub"]) == 0
    for task_id, logits in enumerate(load(tmp_path / "hub").logits(images).values()):
        route_id = model.routes.route_of[task_id]
        columns = find_columns(model.routes.tasks_of[route_id], model.num_classes, task_id)
        np.testing.assert_allclose(logits, expected[route_id][:, columns], rtol=1e-4, atol=1e-5)


def heads_by_hand(
    state: dict[str, torch.Tensor], features: torch.Tensor, route_id: int, heads: Sequence[int], hidden: list[int]
) -> torch.Tensor:
    """Computes the logits of a route for features, shape `(batch, num_features)`, from the tensors of a trained network."""
    for layer in range(len(hidden)):
        name = f"trunk.hidden.{layer}"
        mask = state[f"trunk.routers.hidden_{layer}_1.mask"][route_id]
        outputs = features @ state[f"{name}.0.weight"][:, :, 0, 0].double().T
        mean, var = torch.zeros(len(mask)).double(), torch.ones(len(mask)).double()
        mean[mask], var[mask] = state[f"{name}.1.running"][route_id].double()
        outputs = (outputs - mean) / (var + 1e-5).sqrt()
        outputs = outputs * state[f"{name}.1.weight"].double() + state[f"{name}.1.bias"].double()
        features = outputs.clamp(min=0) * mask
    return torch.cat(
        [features @ state[f"heads.{i}.weight"].double().T + state[f"heads.{i}.bias"].double() for i in heads], dim=1
    )


def test_a_resumed_run_ends_bit_for_bit_as_one_that_was_not_stopped(embedded: Embedded, tmp_path: Path) -> None:
    config = config_of(embedded, tmp_path, "run", hidden=[12])
    train(config, build_accelerator("fp32"))
    whole = saved_state(config)
    shutil.rmtree(config.run.folder / "checkpoints" / "step-000000020")
    train(config, build_accelerator("fp32"))
    assert_identical(saved_state(config), whole)


def test_images_of_another_size_have_features_of_their_own(embedded: Embedded, tmp_path: Path) -> None:
    """Of the same weights: a run is told which by the size of its images."""
    shutil.copytree(embedded.root, tmp_path / "set")
    both = replace(embedded, root=tmp_path / "set")
    assert both.embed("--image-size", "48") == 0
    assert len(read_feature_sets(Store(both.root))) == 2
    config = config_of(both, tmp_path, "run")
    refuse(config, "has several that fit", "`data.image_size`")
    for size in (SIZE, 48):
        resolved, _ = resolve_offline(with_settings(config, {"data.image_size": size}))
        assert resolved.config.data.image_size == size


def test_heads_alone_have_a_page_and_can_get_more_tasks(embedded: Embedded, tmp_path: Path) -> None:
    config = config_of(embedded, tmp_path, "run")
    first = with_settings(config, {"data.tasks": "task_[0-2]", "eval.every": 10, "optim.layer_decay": 0.5})
    train(first, build_accelerator("fp32"))
    assert report([str(first.run.folder), "--out", str(tmp_path / "page.html")]) == 0
    more = replace(
        config, run=RunConfig(name="more", dir=str(tmp_path), start_from=str(first.run.folder), freeze="old")
    )
    train(more, build_accelerator("fp32"))
    images = torch.randint(0, 256, (5, 3, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    before, after = (
        restore_network(open_network(each.run.folder, "newest"), torch.device("cpu")) for each in (first, more)
    )
    with torch.no_grad():
        old, new = (network(network.normalise(images), 0) for network in (before, after))
    assert torch.equal(new[:, : old.shape[1]], old)
    assert new.shape[1] > old.shape[1]
    hidden = replace(more, run=replace(more.run, name="hidden", freeze="nothing"))
    refuse(with_settings(hidden, {"model.hidden": [8]}), "was trained with `model.hidden` = [], not [8]")


def test_a_pass_over_features_costs_what_layers_and_heads_do() -> None:
    """Of three heads on ten features, and of layers of eight and six units of which a route has half."""
    for hidden, sigma, expected in (([], 1.0, 10 * 6), ([8, 6], 0.5, 10 * 4 + 4 * 3 + 3 * 6)):
        model = ModelConfig(name="features", width=1.0, stem="standard", num_features=10, hidden=hidden)
        routes = Routes.build(["all"], [0, 0, 0])
        network = build_model(model, RoutingConfig(sigma=sigma), [2, 2, 2], 0, SIZE, routes, outline=True)
        assert count_forward(network, 0) == expected


def test_the_arm_probe_is_trained_on_features(embedded: Embedded, tmp_path: Path) -> None:
    """Whatever the sweep does to images and routes."""
    given = config_of(embedded, tmp_path, "run", hidden=[4])
    given = replace(given, model=ModelConfig(name="resnet18", weights=str(embedded.weights)))
    of_a_run = {
        "model.trunk": "",
        "model.trunk_sha256": "",
        "model.num_features": 0,
        "model.width": 1.0,
        "data.image_size": 64,
    }
    config = with_settings(given, {"data.augment": "crop-flip", "model.args": {"dropout": 0.1}, **of_a_run})
    config = with_settings(config, BUILT_IN["probe"].settings(6))
    resolved, data = resolve_offline(config)
    assert resolved.routes.routes.num_routes == 1
    assert (resolved.config.model.trunk, resolved.config.model.layers) == (NAME, [])
    assert isinstance(data.reader, FeatureReader)


def test_a_sweep_with_probe_needs_a_budget_that_features_have(embedded: Embedded, tmp_path: Path) -> None:
    given = replace(config_of(embedded, tmp_path, "run"), model=ModelConfig(name="resnet18", width=0.0625))
    given = with_settings(given, {"data.image_size": SIZE, "data.batch_size": 8})

    def plan(budget: str) -> SweepPlan:
        return open_sweep(build_request(given, "dense,probe", budget=budget), tmp_path / "sweep", 1).plan

    with pytest.raises(InputError, match=r"Arm `probe`: heads on features cost next to nothing.*--budget labels"):
        plan("compute")
    (dense,), (probe,) = (plan("labels").runs_of(arm) for arm in ("dense", "probe"))
    assert dense.settings["train.steps"] == probe.settings["train.steps"] == 20


def test_images_stay_images_beside_a_probe_as_reference(embedded: Embedded, tmp_path: Path) -> None:
    given = replace(config_of(embedded, tmp_path, "run"), model=ModelConfig(name="resnet18", width=0.0625))
    given = with_settings(given, {"data.image_size": SIZE, "data.batch_size": 8, "routing.routes": "auto"})

    def plan(arms: str) -> dict[str, str]:
        found = open_sweep(build_request(given, arms, budget="labels"), tmp_path / "sweep", 1).plan
        assert found.reference == "probe"
        return {run.variant: run.settings["model.name"] for run in found.runs}

    assert plan("probe") == {"probe": "features"}
    assert plan("probe,frozen") == {"probe": "features", "frozen": "resnet18"}, "added to the sweep"
    assert plan("probe,frozen,task") == {"probe": "features", "frozen": "resnet18", "task": "resnet18"}


def refuse(config: Config, *parts: str) -> None:
    with pytest.raises(InputError) as refused:
        train(config, build_accelerator("fp32"))
    for part in parts:
        assert part in str(refused.value)


def test_features_of_other_weights_are_refused(embedded: Embedded, tmp_path: Path) -> None:
    other = tmp_path / "other.pth"
    torch.save({"x": torch.zeros(1)}, other)
    refuse(
        config_of(embedded, tmp_path, "run", weights=str(other)), "of other weights", file_sha256(embedded.weights)[:12]
    )
    refuse(
        config_of(embedded, tmp_path, "run", trunk="resnet18"), "no complete features of resnet18", NAME, "matl-embed"
    )


def test_features_of_another_set_are_refused(embedded: Embedded, sparse_set: ShardSet, tmp_path: Path) -> None:
    """The other set has the same images with other label rows in its tars."""
    other = tmp_path / "set"
    shutil.copytree(sparse_set.root, other)
    refuse(config_of(replace(embedded, root=other), tmp_path, "none"), "no complete features", "--weights FILE")
    shutil.copytree(embedded.root / "features", other / "features")
    refuse(config_of(replace(embedded, root=other), tmp_path, "run"), "belongs to another set", "matl-embed again")


@pytest.mark.parametrize(
    ("sections", "part"),
    [
        ({"data": {"augment": "crop"}}, "data.augment"),
        ({"data": {"fit": "pad"}}, "`data.fit` should be crop"),
        ({"data": {"image_size": 64}}, "`data.image_size` should be auto or 32"),
        ({"routing": {"sigma": 0.5}}, "without `model.hidden` there is nothing to route"),
        ({"routing": {"sigma_last": 0.5}}, "`routing.sigma_last` should be none here"),
        ({"routing": {"align": 8}}, "`routing.align` should be 1 here"),
        ({"model": {"drop_path": 0.2}}, "model.drop_path"),
    ],
)
def test_what_cannot_be_done_to_features_is_refused(
    embedded: Embedded, tmp_path: Path, sections: dict[str, dict[str, Any]], part: str
) -> None:
    config = config_of(embedded, tmp_path, "run")
    changed = {name: replace(getattr(config, name), **values) for name, values in sections.items()}
    refuse(replace(config, **changed), part)


def test_a_checkpoint_without_its_trunk_says_where_to_get_it(embedded: Embedded, tmp_path: Path) -> None:
    config = config_of(embedded, tmp_path, "run")
    train(config, build_accelerator("fp32"))
    checkpoint = open_network(config.run.folder)
    (checkpoint.folder / TRUNK_FILE).unlink()
    with pytest.raises(InputError, match="is missing: the weights of squeezenet1_1"):
        restore_network(checkpoint, torch.device("cpu"))
