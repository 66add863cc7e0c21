"""Batches as training gets them: the planned samples, decoded, whatever the number of workers; damage is named."""

import io
import shutil
from itertools import islice
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from PIL import Image

from helpers.shard_sets import ShardSet
from matl_scale import InputError
from matl_scale.data.images.decode import decode_image
from matl_scale.data.loading.config import DataConfig, choose_image_size
from matl_scale.data.loading.damage import DamageLog
from matl_scale.data.loading.loader import ImageBatch, TrainBatches, build_loader
from matl_scale.data.loading.plan import RouteOrder, SlotPlan
from matl_scale.data.loading.stream import StreamBatches
from matl_scale.data.shards.labels import Labels
from matl_scale.data.shards.manifest import Manifest, read_manifest
from matl_scale.data.shards.reader import SampleReader
from matl_scale.routes import Routes
from matl_scale.runs.layout import RunFolder
from matl_scale.train.health.share_damage import share_damage
from matl_scale.train.process_group import build_accelerator
from matl_scale.train.step.sampling import RouteSampler

ROUTES = Routes.build(["even", "odd", "rare"], [0, 1, 0, 1, 0, 2])  # task 5, which is rare, has a route of its own


def plan_of(manifest: Manifest, world_size: int = 1, batch_size: int = 7) -> SlotPlan:
    train = manifest.sample_ids("train")
    order = RouteOrder(0, batch_size, Labels.of_matrix(manifest.labels()).of_samples(train), ROUTES)
    return SlotPlan(order, RouteSampler(0, 3, 2).routes, world_size, 3, np.zeros(3, dtype=np.int64))


def source_of(root: Path | str, rank: int = 0, world_size: int = 1) -> TrainBatches:
    manifest = read_manifest(root)
    return TrainBatches(plan_of(manifest, world_size), SampleReader(manifest), rank)


def take(source: TrainBatches | StreamBatches, count: int, workers: int = 0) -> list[ImageBatch]:
    loader = build_loader(source, 16, workers)
    batches = list(islice(loader, count))
    loader.close()
    return batches


def check_pixels(batch: ImageBatch, data: ShardSet) -> None:
    paths = data.manifest.samples["path"]
    pixels = np.stack([data.pixels[int(paths[row].as_py()[-7:-4])] for row in batch.sample_ids[batch.valid].tolist()])
    np.testing.assert_array_equal(batch.images[torch.from_numpy(batch.valid)].permute(0, 2, 3, 1).numpy(), pixels)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_planned_samples(small_set: ShardSet, workers: int) -> None:
    source = source_of(small_set.root, rank=1, world_size=2)
    labels = small_set.manifest.labels()
    planned = plan_of(small_set.manifest, world_size=2).batches(rank=1, worker=0, num_workers=1)
    for batch, (expected,) in zip(take(source, 12, workers), planned, strict=False):
        assert (batch.index, batch.active_route) == (expected.index, expected.active_route)
        assert batch.sample_ids.tolist() == expected.sample_ids.tolist()
        assert (labels[batch.sample_ids][:, ROUTES.tasks_of[batch.active_route]] >= 0).any(axis=1).all()
        assert batch.valid.all()
        check_pixels(batch, small_set)


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_a_store_behind_a_url_gives_the_same_batches(small_set: ShardSet) -> None:
    remote = fsspec.filesystem("memory")
    remote.put(f"{small_set.root}/", "/bucket/set/", recursive=True)
    local, distant = (take(source_of(root), 8) for root in (small_set.root, "memory://bucket/set"))
    for one, two in zip(local, distant, strict=True):
        assert one.sample_ids.tolist() == two.sample_ids.tolist()
        assert torch.equal(one.images, two.images)
    remote.rm("/bucket", recursive=True)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_reads_every_sample_once_per_epoch(small_set: ShardSet, workers: int) -> None:
    manifest = small_set.manifest
    sample_ids: list[int] = []
    for rank in range(2):
        plan = plan_of(manifest, world_size=2, batch_size=1)
        source = StreamBatches(manifest, "train", plan, SampleReader(manifest), rank, buffer=8)
        per_rank = manifest.shard_sizes[: manifest.shards["split"].to_pylist().count("train")]
        batches = take(source, int(per_rank.sum()), workers)
        for batch in batches:
            check_pixels(batch, small_set)
        sample_ids += [int(batch.sample_ids[0]) for batch in batches]
    counts = np.bincount(sample_ids, minlength=60)
    assert counts.sum() == 120
    assert counts.min() >= 1  # two epochs' worth of reading: each rank reads its own tars, twice on average


def test_other_sizes_are_scaled_and_cropped() -> None:
    wide = np.zeros((20, 60, 3), dtype=np.uint8)
    wide[:, 20:40] = 255  # the middle third is what a centre crop shows
    for kind in ("PNG", "JPEG"):
        buffer = io.BytesIO()
        Image.fromarray(wide).save(buffer, kind, quality=100, subsampling=0)
        image = decode_image(buffer.getvalue(), 10)
        assert image.shape == (10, 10, 3)
        assert (image[:, 1:-1] >= 250).all()


def test_jpegs_decode_as_pillow_does() -> None:
    coarse = np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((48, 48), Image.Resampling.BICUBIC)
    for mode in ("RGB", "L", "CMYK"):
        buffer = io.BytesIO()
        image.convert(mode).save(buffer, "JPEG", quality=95)
        with Image.open(buffer) as encoded:
            expected = np.asarray(encoded.convert("RGB")).astype(int)
        assert abs(decode_image(buffer.getvalue(), 48).astype(int) - expected).max() <= 4
        with pytest.raises(Exception, match=r"(?i)truncated|premature"):
            decode_image(buffer.getvalue()[: len(buffer.getvalue()) // 2], 48)


def test_sizes_that_differ_have_to_be_chosen(small_set: ShardSet) -> None:
    assert choose_image_size(small_set.manifest, DataConfig()) == 16
    assert choose_image_size(small_set.manifest, DataConfig(image_size=24)) == 24


def test_images_that_cannot_be_halved_often_are_enlarged(small_set: ShardSet, monkeypatch: pytest.MonkeyPatch) -> None:
    for stored, chosen in ((8, 16), (16, 16), (20, 20), (24, 32), (28, 32), (32, 32), (64, 64)):
        monkeypatch.setattr(Manifest, "image_size", lambda _, size=stored: size)
        assert choose_image_size(small_set.manifest, DataConfig()) == chosen
        assert choose_image_size(small_set.manifest, DataConfig(image_size=0)) == stored


@pytest.fixture
def damaged_set(small_set: ShardSet, tmp_path: Path) -> tuple[Path, int]:
    """A copy of the set in which row 4 does not decode."""
    root = tmp_path / "set"
    shutil.copytree(small_set.root, root)
    sample = small_set.manifest.samples.slice(4, 1).to_pylist()[0]
    tar = root / small_set.manifest.shards["file"][sample["shard"]].as_py()
    data = bytearray(tar.read_bytes())
    data[sample["offset"] : sample["offset"] + 40] = bytes(40)
    tar.write_bytes(data)
    return root, 4


def log_of(max_share: float) -> DamageLog:
    return DamageLog("train", 60, max_share, "set")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_image_is_skipped_counted_and_listed(
    damaged_set: tuple[Path, int], small_set: ShardSet, tmp_path: Path, workers: int
) -> None:
    root, row = damaged_set
    log = log_of(0.02)
    accelerator, batches = build_accelerator("fp32"), take(source_of(root), 60, workers)
    for batch in batches:
        share_damage(accelerator, log, batch.damage, tmp_path)
    hit = [batch for batch in batches if row in batch.sample_ids]
    assert hit
    for batch in batches:
        assert (batch.valid == (batch.sample_ids != row)).all()
        check_pixels(batch, small_set)
    assert list(log.found) == [row]
    assert (RunFolder(tmp_path).damaged_file).read_text().count("\n") == 1
    assert "1 of 60 samples of split `train` of set are damaged (by shard: train-000000.tar 1)" in log.describe()


def test_too_much_damage_stops_with_names(damaged_set: tuple[Path, int]) -> None:
    root, row = damaged_set
    key = SampleReader(read_manifest(root)).key(row)
    damage = [damage for batch in take(source_of(root), 60) for damage in batch.damage]
    with pytest.raises(InputError, match=rf"sample {key}: it is no image .* more than `data.max_damaged` = 0.01"):
        share_damage(build_accelerator("fp32"), log_of(0.01), damage, None)


@pytest.mark.parametrize("kind", ["offsets", "stream"])
def test_a_tar_of_another_set_never_trains(small_set: ShardSet, tmp_path: Path, kind: str) -> None:
    root = tmp_path / "set"
    shutil.copytree(small_set.root, root)
    first, second = (path for path in sorted(root.glob("train-*.tar"))[:2])
    data = first.read_bytes()
    second.write_bytes(data[: second.stat().st_size].ljust(second.stat().st_size, b"\0"))
    manifest = read_manifest(root)
    source: TrainBatches | StreamBatches = source_of(root)
    if kind == "stream":
        source = StreamBatches(manifest, "train", plan_of(manifest), SampleReader(manifest), 0, buffer=4)
    batches = take(source, 60)
    sizes = np.cumsum([0, *manifest.shard_sizes])
    lost = set(range(sizes[1], sizes[2]))
    assert {damage.sample_id for batch in batches for damage in batch.damage} == lost
    for batch in batches:
        assert set(batch.sample_ids[~batch.valid].tolist()) <= lost
        if batch.valid.any():
            check_pixels(batch, small_set)


def test_a_missing_tar_is_damage(small_set: ShardSet, tmp_path: Path) -> None:
    root = tmp_path / "set"
    shutil.copytree(small_set.root, root)
    (root / "train-000000.tar").unlink()
    manifest = read_manifest(root)
    found = SampleReader(manifest).read(np.arange(60))
    assert sum(not isinstance(image, bytes) for image in found) == manifest.shard_sizes[0]
