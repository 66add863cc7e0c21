"""Features of a set's images, computed once, and networks that are trained on them."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers import rank_work
from helpers.ranks import run_ranks
from helpers.run_configs import assert_identical, load_state, saved_state
from helpers.shard_sets import ShardSet
from helpers.sweeps import build_request
from matl_scale.commands.embed import main as embed
from matl_scale.data.images.decode import decode_image
from matl_scale.data.loading.config import DataConfig
from matl_scale.data.loading.feature_batches import FeatureReader
from matl_scale.data.shards.features import FEATURES_FILE, FeatureSet, open_features, read_feature_sets
from matl_scale.data.shards.manifest import read_manifest
from matl_scale.data.shards.reader import SampleReader
from matl_scale.errors import InputError
from matl_scale.models.backbones import build_backbone, build_backbone_outline
from matl_scale.models.config import ModelConfig
from matl_scale.models.cost import count_forward
from matl_scale.models.network import build_model, normalise
from matl_scale.models.routing_config import RoutingConfig
from matl_scale.report.__main__ import main as report
from matl_scale.routes import Routes
from matl_scale.runs.checkpoints.network import open_network, restore_network
from matl_scale.runs.layout import TRUNK_FILE
from matl_scale.runs.sweep_folder import SweepPlan
from matl_scale.storage.files import file_sha256
from matl_scale.storage.ranges import RangeReader
from matl_scale.storage.store import Store
from matl_scale.sweep.arms import BUILT_IN
from matl_scale.sweep.open_sweep import open_sweep
from matl_scale.tracking.recorder import TrackConfig
from matl_scale.train.config import Config, RunConfig, with_settings
from matl_scale.train.evaluation import EvalConfig
from matl_scale.train.features.embed import choose_size
from matl_scale.train.features.tars import plan_tars
from matl_scale.train.process_group import build_accelerator
from matl_scale.train.resolve import resolve_offline
from matl_scale.train.run import train
from matl_scale.train.schedule import CheckpointConfig
from matl_scale.train.step.optim import OptimConfig
from matl_scale.train.step.train_step import TrainConfig
from matl_scale.vision import models

NAME, SIZE = "squeezenet1_1", 32


@dataclass(frozen=True)
class Embedded:
    """A set with features, and the trunk that computed them."""

    root: Path
    weights: Path
    backbone: torch.nn.Module

    @property
    def arguments(self) -> list[str]:
        given = ["--model", NAME, "--weights", str(self.weights), "--image-size", str(SIZE), "--workers", "0"]
        return [str(self.root), *given]

    def embed(self, *options: str) -> int:
        return embed([*self.arguments, *options])

    @property
    def features(self) -> FeatureSet:
        (found,) = read_feature_sets(Store(self.root))
        return found


@pytest.fixture(scope="module")
def embedded(small_set: ShardSet, tmp_path_factory: pytest.TempPathFactory) -> Embedded:
    folder = tmp_path_factory.mktemp("embedded")
    shutil.copytree(small_set.root, folder / "set")
    torch.manual_seed(0)
    whole = models.get_model(NAME, weights=None)
    torch.save(whole.state_dict(), folder / "weights.pth")
    backbone = torch.nn.Sequential(whole.features, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()).eval()
    found = Embedded(folder / "set", folder / "weights.pth", backbone)
    assert found.embed() == 0
    return found


def expected_features(embedded: Embedded) -> np.ndarray:
    """Computes every image's features by itself."""
    manifest = read_manifest(embedded.root)
    found = []
    for data in SampleReader(manifest).read(np.arange(manifest.num_samples)):
        assert isinstance(data, bytes)
        pixels = torch.from_numpy(decode_image(data, SIZE).transpose(2, 0, 1).copy())[None]
        with torch.no_grad():
            found.append(embedded.backbone(normalise(pixels))[0].numpy())
    return np.stack(found)


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


def test_features_are_those_of_every_image(embedded: Embedded) -> None:
    stored, notes = open_features(embedded.features, read_manifest(embedded.root))
    assert stored.values.dtype == np.float16
    np.testing.assert_allclose(stored.values, expected_features(embedded), rtol=2e-3, atol=1e-4)
    assert not stored.damaged
    assert not notes


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
    with torch.no_grad():
        features = embedded.backbone(normalise(images)).double()
        for route_id in range(model.routes.num_routes):
            found = model(model.normalise(images), route_id)
            hand = heads_by_hand(state, features, route_id, model.routes.heads_of[route_id], hidden)
            torch.testing.assert_close(found.double(), hand, rtol=1e-4, atol=1e-5)


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


def test_an_interrupted_call_goes_on_with_the_tars_that_are_not_done(
    embedded: Embedded, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(embedded.features.root.url)
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.glob("*.parquet")}
    assert len(before) > 2
    (folder / FEATURES_FILE).unlink()
    (folder / "train-000000.parquet").unlink()
    assert not read_feature_sets(Store(embedded.root))
    assert embedded.embed() == 0
    after = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.glob("*.parquet")}
    computed = {name for name in after if after[name] != before[name]}
    assert computed <= {"train-000000.parquet"}
    assert {name: content for name, (content, _) in after.items()} == {
        name: content for name, (content, _) in before.items()
    }
    assert "of them were there already" in capsys.readouterr().out


def test_images_that_cannot_be_decoded_are_named_and_left_out_of_training(
    embedded: Embedded, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = read_manifest(embedded.root)
    shutil.copytree(embedded.root, tmp_path / "set", ignore=shutil.ignore_patterns("features", ".features"))
    reader = SampleReader(manifest)
    (image,) = reader.read(np.array([3]))
    assert isinstance(image, bytes)
    path = tmp_path / "set" / manifest.shards["file"][0].as_py()
    path.write_bytes(path.read_bytes().replace(image, b"x" * len(image)))
    damaged = replace(embedded, root=tmp_path / "set")
    assert damaged.embed() == 1
    assert f"sample {reader.key(3)}" in capsys.readouterr().err
    stored, _ = open_features(damaged.features, manifest)
    assert list(stored.damaged) == [3]
    batch = FeatureReader(manifest, stored).read_features(np.array([5, 3]))
    assert [entry.sample_id for entry in batch.damage] == [3]
    assert not batch.values[1].any()


def test_two_ranks_write_what_one_does(embedded: Embedded, tmp_path: Path) -> None:
    shutil.copytree(embedded.root, tmp_path / "set", ignore=shutil.ignore_patterns("features", ".features"))
    copied = replace(embedded, root=tmp_path / "set")
    assert run_ranks(2, rank_work.embed, tmp_path / "ranks", copied.arguments) == [0, 0]
    assert copied.features.files == embedded.features.files
    assert copied.features.trunk == embedded.features.trunk


def test_batches_are_of_one_tar_and_come_from_several_processes(embedded: Embedded, tmp_path: Path) -> None:
    shutil.copytree(embedded.root, tmp_path / "set", ignore=shutil.ignore_patterns("features", ".features"))
    copied = replace(embedded, root=tmp_path / "set")
    assert copied.embed("--workers", "2", "--batch-size", "7") == 0
    manifest = read_manifest(copied.root)
    stored, expected = (open_features(found.features, manifest)[0] for found in (copied, embedded))
    np.testing.assert_allclose(stored.values, expected.values, rtol=1e-3, atol=1e-4)
    sizes = [5, 1, 9]
    tars = np.split(np.arange(15), np.cumsum(sizes)[:-1])
    for num_workers in (1, 2, 3, 7):
        batches = [
            batch.sample_ids
            for worker in range(num_workers)
            for (batch,) in plan_tars(tars, 4, worker=worker, num_workers=num_workers)
        ]
        assert sorted(np.concatenate(batches)) == list(range(15))
        assert sorted(map(len, batches)) == [1, 1, 1, 4, 4, 4]


def test_images_that_could_not_be_read_are_read_again_by_the_next_call(
    embedded: Embedded, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file system that fails for a while leaves no zeros behind."""
    shutil.copytree(embedded.root, tmp_path / "set", ignore=shutil.ignore_patterns("features", ".features"))
    copied = replace(embedded, root=tmp_path / "set")
    with monkeypatch.context() as failing:
        failing.setattr(RangeReader, "_read_local", lambda *_: OSError(5, "Input/output error"))
        with pytest.raises(SystemExit, match="1"):
            copied.embed()
    said = capsys.readouterr().err
    assert "cannot be read" in said
    assert "Run the same command again" in said
    assert not read_feature_sets(Store(copied.root))
    assert copied.embed() == 0
    stored, _ = open_features(copied.features, read_manifest(copied.root))
    assert stored.values.any(axis=1).all()


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


def test_a_trunk_that_cannot_be_put_together_later_is_refused_at_once(
    embedded: Embedded, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = embedded.weights.with_name("shuffle.pth")
    torch.save(models.get_model("shufflenet_v2_x0_5", weights=None).state_dict(), weights)
    for name, message in (("shufflenet_v2_x0_5", "This backbone cannot be routed"), ("features", "Got features")):
        with pytest.raises(SystemExit, match="2"):
            embed([str(embedded.root), "--model", name, "--weights", str(weights)])
        assert message in capsys.readouterr().err


def test_a_transformer_gets_images_of_its_own_size_alone(
    embedded: Embedded, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where its weights say no size, and images of the set have another."""
    name = "timm/vit_tiny_patch16_224"
    config = Config(data=DataConfig(path=str(embedded.root)), model=ModelConfig(name=name, width=1.0, stem="standard"))
    backbone = build_backbone_outline(config.model, seed=0)
    assert choose_size(backbone, read_manifest(embedded.root), config) == 224
    weights = tmp_path / "vit.pth"
    torch.save(build_backbone(config.model, seed=0).state_dict(), weights)
    with pytest.raises(SystemExit, match="2"):
        embed([str(embedded.root), "--model", name, "--weights", str(weights), "--image-size", "112"])
    said = capsys.readouterr().err
    assert f"--image-size should be 224, or left out: {name} takes images of 224 pixels alone. Got 112" in said


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
