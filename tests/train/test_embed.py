"""`matl-embed`: features of a set's images, computed once."""

from pathlib import Path

import numpy as np
import pytest
import torch

from helpers import rank_work
from helpers.commands import matl_data, shard_arguments
from helpers.embedded import Embedded, embed_set, expected_features
from helpers.ranks import run_ranks
from helpers.sources_on_disk import write_images, write_labels
from matl_scale.commands.embed import main as embed
from matl_scale.data.loading.config import DataConfig
from matl_scale.data.loading.feature_batches import FeatureReader
from matl_scale.data.shards.features import FEATURES_FILE, open_features, read_feature_sets
from matl_scale.data.shards.manifest import read_manifest
from matl_scale.data.shards.reader import SampleReader
from matl_scale.models.backbones import build_backbone, build_backbone_outline
from matl_scale.models.config import ModelConfig
from matl_scale.storage.ranges import RangeReader
from matl_scale.storage.store import Store
from matl_scale.train.config import Config
from matl_scale.train.features.embed import choose_size
from matl_scale.train.features.tars import plan_tars
from matl_scale.vision import models


def test_features_are_those_of_every_image(embedded: Embedded) -> None:
    stored, notes = open_features(embedded.features, read_manifest(embedded.root))
    assert stored.values.dtype == np.float16
    np.testing.assert_allclose(stored.values, expected_features(embedded), rtol=2e-3, atol=1e-4)
    assert not stored.damaged
    assert not notes


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
    damaged = embedded.copy(tmp_path / "set")
    reader = SampleReader(manifest)
    (image,) = reader.read(np.array([3]))
    assert isinstance(image, bytes)
    path = tmp_path / "set" / manifest.shards["file"][0].as_py()
    path.write_bytes(path.read_bytes().replace(image, b"x" * len(image)))
    assert damaged.embed() == 1
    assert f"sample {reader.key(3)}" in capsys.readouterr().err
    stored, _ = open_features(damaged.features, manifest)
    assert list(stored.damaged) == [3]
    batch = FeatureReader(manifest, stored).read_features(np.array([5, 3]))
    assert [entry.sample_id for entry in batch.damage] == [3]
    assert not batch.values[1].any()


def test_two_ranks_write_what_one_does(embedded: Embedded, tmp_path: Path) -> None:
    copied = embedded.copy(tmp_path / "set")
    assert run_ranks(2, rank_work.embed, tmp_path / "ranks", copied.arguments) == [0, 0]
    assert copied.features.files == embedded.features.files
    assert copied.features.trunk == embedded.features.trunk


def test_batches_are_of_one_tar_and_come_from_several_processes(embedded: Embedded, tmp_path: Path) -> None:
    copied = embedded.copy(tmp_path / "set")
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
    copied = embedded.copy(tmp_path / "set")
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


def test_versions_with_fewer_tars_have_a_cache_of_their_own(tmp_path: Path) -> None:
    """The features of a set that has grown serve its older versions too, whichever is opened first."""
    for split, count in (("train", 9), ("val", 5)):
        names = write_images(tmp_path / split, count, prefix=split)
        write_labels(tmp_path / f"{split}.csv", names, missing=0)
        source = shard_arguments(tmp_path, tmp_path / "set", "--split", split, images=split, labels=f"{split}.csv")
        assert matl_data(source) == 0
    grown = embed_set(tmp_path / "set", tmp_path / "grown")
    for version, count in (("1", 9), ("2", 14), ("1", 9)):
        manifest = read_manifest(grown.root, version)
        stored, _ = open_features(grown.features, manifest)
        assert stored.values.shape == (count, grown.features.trunk.num_features)
