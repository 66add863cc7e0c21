"""Random resized crops against torchvision's, one image at a time."""

import io
from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.odd_images import turned
from helpers.shard_sets import ShardSet
from matl_scale.data.images.decode import Box, decode_regions
from matl_scale.data.images.gate import BadImage
from matl_scale.data.loading.loader import DecodeBatch, EncodedBatch, ImageBatch, TrainBatches, build_loader
from matl_scale.data.loading.plan import PlannedBatch, RouteOrder, SlotPlan
from matl_scale.data.loading.resized_crop import ATTEMPTS, ResizedCrops, choose_box, resize
from matl_scale.data.shards.labels import Labels
from matl_scale.data.shards.reader import SampleReader
from matl_scale.routes import Routes
from matl_scale.vision import transforms

SIZE = 24
CROPS = ResizedCrops(seed=3, min_area=0.08)


def smooth_image(width: int, height: int) -> Image.Image:
    coarse = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encode(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **({"quality": 95, "subsampling": 0} if kind == "JPEG" else {}))
    return buffer.getvalue()


def crop_by_hand(image: Image.Image, box: Box) -> np.ndarray:
    found = transforms.functional.resized_crop(
        image.convert("RGB"), box.top, box.left, box.height, box.width, [SIZE, SIZE]
    )
    return np.asarray(found).astype(int)


def check_crops(data: bytes, upright: Image.Image, error: float) -> None:
    for draws in CROPS.draw(0, 8):
        box = choose_box(draws, CROPS.min_area, *upright.size)
        (found,) = CROPS.decode(data, [draws], SIZE)
        found = found.permute(1, 2, 0).numpy()
        assert abs(found - crop_by_hand(upright, box)).max() <= error


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_crop_is_torchvisions_of_the_same_box(kind: str, mode: str) -> None:
    image = smooth_image(90, 60).convert(mode)
    data = encode(image, kind)
    with Image.open(io.BytesIO(data)) as stored:
        check_crops(data, stored.convert(mode), error=1)  # of rounding


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 7])
def test_a_jpeg_is_cropped_as_people_see_it(mode: str, orientation: int) -> None:
    image = smooth_image(47, 61).convert(mode)
    check_crops(turned(image, "JPEG", orientation), image, error=10)


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_large_jpeg_is_scaled_down_while_it_is_decoded(orientation: int) -> None:
    image = smooth_image(640, 480)
    data = turned(image, "JPEG", orientation)
    check_crops(data, image, error=20)  # a box of the scaled image is exact to half a pixel
    boxes = {Box(0, 0, 640, 480): (60, 80), Box(100, 80, 300, 200): (25, 38), Box(5, 9, 30, 28): (28, 30)}
    for box, shape in boxes.items():
        (region,) = decode_regions(data, [lambda *_, box=box: box], SIZE)
        assert region.shape == (*shape, 3)  # an eighth is the smallest scale of a decoder
        error = abs(resize(region, SIZE).permute(1, 2, 0).numpy() - crop_by_hand(image, box))
        assert error.max() <= 20
        assert error.mean() <= 4


@pytest.mark.parametrize("size", [(500, 375), (30, 200), (1, 1)])
def test_boxes_are_distributed_as_torchvisions(size: tuple[int, int]) -> None:
    width, height = size
    draws = np.random.default_rng(0).random((3000, ATTEMPTS, 4))
    ours = np.array([choose_box(each, 0.08, width, height) for each in draws], dtype=float)
    blank = torch.zeros(1, height, width)
    torch.manual_seed(0)
    crop = transforms.RandomResizedCrop(8)
    found = [crop.make_params([blank]) for _ in range(len(ours))]
    theirs = np.array([[each[key] for key in ("left", "top", "width", "height")] for each in found], dtype=float)
    assert (ours[:, :2] >= 0).all()
    assert (ours[:, :2] + ours[:, 2:] <= size).all()
    assert (ours[:, 2:] >= 1).all()
    for values in (
        lambda boxes: boxes,
        lambda boxes: boxes**2 / max(size),
        lambda boxes: boxes[:, 2:].prod(axis=1) / 300,
    ):
        spread = np.sqrt(values(ours).var(axis=0) * 2 / len(ours))
        assert (abs(values(ours).mean(axis=0) - values(theirs).mean(axis=0)) <= 4 * spread + 1e-9).all()


@pytest.mark.parametrize("size", [(1000, 10), (10, 1000)])
def test_no_box_that_fits_is_the_middle_as_in_torchvision(size: tuple[int, int]) -> None:
    width, height = size
    expected = transforms.RandomResizedCrop(8, scale=(0.9, 1.0)).make_params([torch.zeros(1, height, width)])
    found = choose_box(CROPS.draw(0, 1)[0], 0.9, width, height)
    assert found._asdict() == {key: expected[key] for key in ("left", "top", "width", "height")}


def test_a_damaged_image_leaves_the_crops_of_the_others(small_set: ShardSet) -> None:
    reader = SampleReader(small_set.manifest)
    sample_ids = np.arange(6)
    encoded = reader.read(sample_ids)
    planned = PlannedBatch(sample_ids=sample_ids, active_route=0, index=4)
    decode = DecodeBatch(reader, 8, crops=CROPS)
    (whole,) = decode(EncodedBatch([planned], encoded))
    (broken,) = decode(EncodedBatch([planned], [*encoded[:2], b"junk", *encoded[3:]]))
    assert broken.valid.tolist() == [True, True, False, True, True, True]
    assert torch.equal(broken.images[broken.valid], whole.images[broken.valid])
    with pytest.raises(BadImage):
        CROPS.decode(b"junk", CROPS.draw(0, 1), 8)


def test_batches_that_share_images_have_crops_of_their_own() -> None:
    image = smooth_image(640, 480)
    data = encode(image, "JPEG")
    draws = CROPS.draw(0, 6)
    for part, drawn in zip(CROPS.decode(data, draws, SIZE), draws, strict=True):
        box = choose_box(drawn, CROPS.min_area, *image.size)
        assert abs(part.permute(1, 2, 0).numpy().astype(int) - crop_by_hand(image, box)).max() <= 20
    reader = SampleReader.__new__(SampleReader)
    slots = [PlannedBatch(sample_ids=np.arange(2), active_route=route, index=7 + route) for route in range(3)]
    found = DecodeBatch(reader, SIZE, crops=CROPS)(EncodedBatch(slots, [data, data]))
    for slot, batch in zip(slots, found, strict=True):
        (alone,) = DecodeBatch(reader, SIZE, crops=CROPS)(EncodedBatch([slot], [data, data]))
        assert (batch.index, batch.active_route) == (slot.index, slot.active_route)
        assert (batch.images - alone.images.int()).abs().max() <= 20  # decoded at another scale
    whole = DecodeBatch(reader, SIZE)(EncodedBatch(slots, [data, data]))
    assert len({batch.images.data_ptr() for batch in whole}) == 1


def read_slots(small_set: ShardSet, world_size: int, rank: int, workers: int, first_step: int = 0) -> list[ImageBatch]:
    manifest = small_set.manifest
    labels, routes = manifest.labels(), Routes.one_per_task(manifest.task_names)
    order = RouteOrder(0, 5, Labels.of_matrix(labels).of_samples(manifest.sample_ids("train")), routes)
    plan = SlotPlan(order, lambda _: np.arange(4), world_size, first_step, np.array([first_step] * routes.num_routes))
    source = TrainBatches(plan, SampleReader(manifest), rank)
    batches = build_loader(source, 8, workers, crops=CROPS)
    try:
        return list(islice(batches, (3 - first_step) * 4 // world_size))
    finally:
        batches.close()


def test_a_slot_has_the_same_crops_on_any_rank_after_any_resume(small_set: ShardSet) -> None:
    expected = {batch.index: batch for batch in read_slots(small_set, 1, 0, workers=0)}
    others = [
        *read_slots(small_set, 2, 0, workers=0),
        *read_slots(small_set, 2, 1, workers=2),
        *read_slots(small_set, 1, 0, workers=0, first_step=2),
    ]
    assert {batch.index for batch in others} == set(expected) == set(range(12))
    for batch in others:
        assert np.array_equal(batch.sample_ids, expected[batch.index].sample_ids)
        assert torch.equal(batch.images, expected[batch.index].images)
    images = [batch.images.numpy().tobytes() for batch in expected.values()]
    assert len(set(images)) == len(images)
