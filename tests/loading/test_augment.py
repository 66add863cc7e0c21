import numpy as np
import pytest
import torch

from matl_scale.data.images.fit import GREY
from matl_scale.data.loading import batch_transforms
from matl_scale.data.loading.augment import BATCH_TRANSFORMS, build_augmentation, choose_steps
from matl_scale.data.loading.config import DataConfig
from matl_scale.data.loading.mixing import Mixing, build_mixing
from matl_scale.errors import InputError
from matl_scale.models.network import normalise
from matl_scale.vision import transforms

COUNT, HEIGHT, WIDTH = 24, 16, 20


def draw_images(count: int = COUNT) -> torch.Tensor:
    """Smooth images, as photos are: rounding then matters as little as there."""
    coarse = torch.rand(count, 3, 4, 5, generator=torch.Generator().manual_seed(0)) * 255
    images: torch.Tensor = transforms.functional.resize(coarse, [HEIGHT, WIDTH]).round().to(torch.uint8)
    return images


@pytest.mark.parametrize("step", BATCH_TRANSFORMS)
def test_augmentation_is_drawn_per_image_from_its_seed(step: str) -> None:
    images = draw_images(1).expand(32, -1, -1, -1)
    augment = build_augmentation([step])
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = augment(images, seed=5)
    assert torch.equal(torch.get_rng_state(), state)
    assert first.shape == images.shape
    assert first.dtype == torch.uint8
    assert len({image.numpy().tobytes() for image in first}) > 1
    assert torch.equal(first, augment(images, seed=5))
    assert not torch.equal(first, augment(images, seed=6))


def test_a_step_does_not_change_what_others_draw() -> None:
    images = draw_images()
    both = build_augmentation(["flip", "erase"])(images, 3)
    flipped = build_augmentation(["flip"])(images, 3)
    covered = (both != flipped).any(dim=1, keepdim=True).expand_as(both)
    assert (both[covered] == GREY).all()
    assert covered.any()


def test_none_augments_nothing() -> None:
    images = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    assert build_augmentation(choose_steps("none"))(images, seed=0) is images
    assert normalise(images).dtype == torch.get_default_dtype()


def test_a_crop_is_one_of_the_reflected_image() -> None:
    images = draw_images()
    found = batch_transforms.crop_padded(images, np.random.default_rng(0))
    offsets = set()
    for image, crop in zip(images, found, strict=True):
        padded = transforms.functional.pad(image, [WIDTH // 8, HEIGHT // 8], padding_mode="reflect")
        crops = {
            (top, left): padded[:, top : top + HEIGHT, left : left + WIDTH]
            for top in range(2 * (HEIGHT // 8) + 1)
            for left in range(2 * (WIDTH // 8) + 1)
        }
        offsets |= {offset for offset, each in crops.items() if torch.equal(each, crop)}
    assert len(offsets) > 10


def test_half_of_the_images_are_mirrored() -> None:
    images = draw_images(400)
    found = batch_transforms.flip(images, np.random.default_rng(0))
    mirrored = torch.tensor(
        [
            torch.equal(after, transforms.functional.horizontal_flip(before))
            for before, after in zip(images, found, strict=True)
        ]
    )
    assert torch.equal(found[~mirrored], images[~mirrored])
    assert 150 < mirrored.sum() < 250


def test_colours_change_as_torchvision_changes_those_of_one_image() -> None:
    images, functional = draw_images(), transforms.functional
    for seed in range(4):
        found = batch_transforms.jitter(images, np.random.default_rng(seed))
        generator = np.random.default_rng(seed)  # draws the same again
        factors, order = generator.uniform(0.6, 1.4, (3, COUNT)), generator.permutation(3)
        for i, image in enumerate(images):
            expected = image.float() / 255
            for number in order.tolist():
                adjust = (functional.adjust_brightness, functional.adjust_contrast, functional.adjust_saturation)[
                    number
                ]
                expected = adjust(expected, factors[number, i])
            assert (found[i] - expected * 255).abs().max() <= 1


def test_half_of_the_images_lose_a_rectangle_of_usual_size() -> None:
    images = torch.zeros(400, 3, 40, 30, dtype=torch.uint8)
    found = batch_transforms.erase(images, np.random.default_rng(0))
    shares, ratios, tops = [], [], set()
    for image in found:
        rows, columns = (image[0] == GREY).any(dim=1).nonzero(), (image[0] == GREY).any(dim=0).nonzero()
        if len(rows):
            rectangle = image[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            assert (rectangle == GREY).all()
            assert (image == GREY).sum() == rectangle.numel()
            shares.append(len(rows) * len(columns) / (40 * 30))
            ratios.append(len(rows) / len(columns))
            tops.add(int(rows[0]))
    assert 150 < len(shares) < 250
    assert 0.01 < min(shares) < 0.06
    assert 0.28 < max(shares) < 0.36
    assert min(ratios) < 0.5
    assert max(ratios) > 2
    assert len(tops) > 20


@pytest.mark.parametrize(
    ("setting", "steps"),
    [
        ("crop-flip", ("crop", "flip")),
        ("resized-crop-flip", ("resized-crop", "flip")),
        ("randaugment", ("crop", "flip", "randaugment")),
        (["randaugment"], ("randaugment",)),
        ("jitter", ("jitter",)),
        (["erase", "flip", "resized-crop"], ("resized-crop", "flip", "erase")),
        ([], ()),
    ],
)
def test_augmentation_is_a_name_or_a_list_of_steps(setting: list[str] | str, steps: tuple[str, ...]) -> None:
    assert choose_steps(setting) == steps
    DataConfig(augment=setting)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"augment": "mirror"}, r"`data.augment` should be one of none, .*resized-crop.*auto. Got 'mirror'"),
        ({"augment": ["flip", "crop-flip"]}, r"`data.augment` should be one of resized-crop, .*erase. Got 'crop-flip'"),
        ({"augment": ["crop", "resized-crop"]}, "should have one of resized-crop and crop. Got crop, resized-crop"),
        ({"fit": "stretch"}, "`data.fit` should be one of crop, squash, pad. Got 'stretch'"),
        ({"crop_area": 1.5}, "at most 1: a crop is no larger than the image. Got 1.5"),
        ({"crop_area": 0.0}, "`data.crop_area` should be above 0"),
        ({"mixup": -0.1}, "`data.mixup` should be at least 0 and finite. Got -0.1"),
        ({"cutmix": float("inf")}, "`data.cutmix` should be at least 0 and finite. Got inf"),
    ],
)
def test_what_cannot_be_is_refused_by_name(values: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        DataConfig(**values)  # type: ignore[arg-type]


def test_mixup_mixes_each_image_with_the_one_before() -> None:
    images = normalise(draw_images(5))
    shares = set()
    for seed in range(20):
        mixed, share = Mixing(mixup=0.5, cutmix=0)(images, 4, seed)
        for i in range(4):
            torch.testing.assert_close(mixed[i], share * images[i] + (1 - share) * images[i - 1 if i else 3])
        assert torch.equal(mixed[4], images[4])  # carries no label
        shares.add(share)
        assert torch.equal(mixed, Mixing(mixup=0.5, cutmix=0)(images, 4, seed)[0])
    assert len(shares) == 20


def test_cutmix_takes_a_rectangle_whose_area_is_the_share() -> None:
    images = torch.arange(4.0)[:, None, None, None].expand(-1, 3, HEIGHT, WIDTH)
    shares = []
    for seed in range(50):
        mixed, share = Mixing(mixup=0, cutmix=1)(images, 4, seed)
        foreign = mixed[1] != 1
        assert (mixed[1][foreign] == 0).all()
        assert torch.equal(mixed[0] != 0, foreign)
        assert share == pytest.approx(1 - foreign.float().mean().item())
        rows, columns = foreign[0].any(dim=1).sum(), foreign[0].any(dim=0).sum()
        assert foreign[0].sum() == rows * columns
        shares.append(share)
    assert np.std(shares) > 0.2


def test_both_take_turns_by_chance() -> None:
    images = torch.arange(4.0)[:, None, None, None].expand(-1, 3, HEIGHT, WIDTH)
    is_cut = [(Mixing(mixup=1, cutmix=1)(images, 4, seed)[0] % 1 == 0).all().item() for seed in range(60)]
    assert 15 < sum(is_cut) < 45


def test_a_single_image_is_never_mixed() -> None:
    images = normalise(draw_images(2))
    for count in (0, 1):
        mixed, share = Mixing(mixup=1, cutmix=1)(images, count, 0)
        assert mixed is images
        assert share == 1
    with pytest.raises(InputError, match=r"`data.cutmix` should be 0, or .*1 routes have one: b\. Leave"):
        build_mixing(0, 1, np.array([5, 1, 0]), ["a", "b", "c"])
    assert build_mixing(0, 1, np.array([5, 0]), ["a", "c"]) is not None
    assert build_mixing(0, 0, np.array([1]), ["a"]) is None
