"""Batches as training gets them: the planned samples, decoded, whatever the number of workers; damage is named."""

import io
import shutil
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from shard_sets import ShardSet

from matl_scale import InputError
from matl_scale.data.augment import augment_batch, build_augment, normalise
from matl_scale.data.loader import DataConfig, TrainBatches, build_loader, build_plan, choose_image_size
from matl_scale.data.manifest import read_manifest
from matl_scale.data.reader import SampleReader, decode_image
from matl_scale.data.shards import HEADER_BYTES
from matl_scale.train.step import labelled_loss, select_labelled


def source_of(root: Path, rank: int = 0, world_size: int = 1, first: int = 0) -> TrainBatches:
    manifest = read_manifest(root)
    plan = build_plan(manifest, "train", DataConfig(batch_size=7, shuffle_shards=2), seed=0)
    return TrainBatches(plan, SampleReader(manifest), rank, world_size, first)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_planned_samples(small_set: ShardSet, workers: int) -> None:
    paths = small_set.manifest.samples["path"].to_pylist()
    loader = build_loader(source_of(small_set.root, rank=1, world_size=2, first=3), 16, workers)
    for place, batch in enumerate(islice(loader, 12)):
        assert batch.index == (3 + place) * 2 + 1
        pixels = np.stack([small_set.pixels[int(paths[row][-7:-4])] for row in batch.rows])
        np.testing.assert_array_equal(batch.images.permute(0, 2, 3, 1).numpy(), pixels)
    loader.close()


def test_other_sizes_are_scaled_and_cropped() -> None:
    wide = np.zeros((20, 60, 3), dtype=np.uint8)
    wide[:, 20:40] = 255  # the middle third is what a centre crop shows
    buffer = io.BytesIO()
    Image.fromarray(wide).save(buffer, "PNG")
    image = decode_image(buffer.getvalue(), 10)
    assert image.shape == (3, 10, 10)
    assert (image[:, :, 1:-1] == 255).all()


def test_sizes_that_differ_have_to_be_chosen(small_set: ShardSet) -> None:
    assert choose_image_size(small_set.manifest, DataConfig()) == 16
    assert choose_image_size(small_set.manifest, DataConfig(image_size=24)) == 24


@pytest.mark.parametrize("workers", [0, 1])
def test_a_tar_of_another_set_is_named(small_set: ShardSet, tmp_path: Path, workers: int) -> None:
    root = tmp_path / "set"
    shutil.copytree(small_set.root, root)
    first, second = (path for path in sorted(root.glob("train-*.tar"))[:2])
    data = first.read_bytes()
    second.write_bytes(data[: second.stat().st_size].ljust(second.stat().st_size, b"\0"))
    with pytest.raises(InputError, match=rf"{second.name} should hold \d+\.png") as caught:
        list(islice(build_loader(source_of(root), 16, workers), 20))
    assert "\n" not in str(caught.value)


def test_a_damaged_image_is_named(small_set: ShardSet, tmp_path: Path) -> None:
    root = tmp_path / "set"
    shutil.copytree(small_set.root, root)
    sample = small_set.manifest.samples.to_pylist()[0]
    tar = root / small_set.manifest.shards["file"][sample["shard"]].as_py()
    data = bytearray(tar.read_bytes())
    data[sample["offset"] : sample["offset"] + 40] = bytes(40)
    tar.write_bytes(data)
    assert sample["offset"] >= HEADER_BYTES
    with pytest.raises(InputError, match=f"Sample {sample['key']} of {tar.name} cannot be decoded"):
        list(islice(build_loader(source_of(root), 16, 0), 20))


def test_a_split_smaller_than_a_batch(small_set: ShardSet) -> None:
    with pytest.raises(InputError, match="more than the 60 samples"):
        build_plan(small_set.manifest, "train", DataConfig(batch_size=61), seed=0)


@pytest.mark.parametrize("name", ["flip", "crop-flip", "randaugment"])
def test_augmentation_is_drawn_per_image_from_its_seed(name: str) -> None:
    images = torch.randint(0, 256, (1, 3, 16, 16), dtype=torch.uint8).expand(32, -1, -1, -1)
    transform = build_augment(name, 16)  # type: ignore[arg-type]
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = augment_batch(images, transform, seed=5)
    assert torch.equal(torch.get_rng_state(), state)
    assert first.shape == images.shape
    assert first.dtype == torch.uint8
    assert len({image.numpy().tobytes() for image in first}) > 1
    assert torch.equal(first, augment_batch(images, transform, seed=5))
    assert not torch.equal(first, augment_batch(images, transform, seed=6))


def test_none_augments_nothing() -> None:
    images = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    assert augment_batch(images, build_augment("none", 4), seed=0) is images
    assert normalise(images).dtype == torch.get_default_dtype()


@pytest.mark.parametrize(
    ("labels", "chosen", "targets"),
    [
        ([1, 0, 2], [0, 1, 2], [1, 0, 2]),
        ([-1, 0, -1, 2], [1, 3], [0, 2]),
        ([-1, -1, 3], [2, 0], [3]),  # batch norm needs a companion
        ([-1, -1], [0, 1], []),
    ],
)
def test_a_task_trains_on_its_labelled_samples(labels: list[int], chosen: list[int], targets: list[int]) -> None:
    places, found = select_labelled(np.array(labels, dtype=np.int8))
    assert places.tolist() == chosen
    assert found.tolist() == targets


def test_without_labels_the_loss_is_zero_with_a_graph() -> None:
    logits = torch.randn(4, 3, requires_grad=True)
    loss = labelled_loss(logits, torch.zeros(0, dtype=torch.long))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()
