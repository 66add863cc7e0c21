"""What people report of image files: one picture, one verdict and the same pixels wherever it is read."""

import base64
import io
import json
import re
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms

from data_prep.image_check import check_image
from helpers.commands import matl_data, shard_arguments
from helpers.odd_images import (
    STORED,
    chunks_of,
    deep_images,
    encode,
    join_chunks,
    png_of,
    scene,
    transparent_images,
    turned,
    turned_by_xmp,
    with_chunks,
)
from matl_scale.data.images.decode import decode_image
from matl_scale.data.images.fit import Fit, fit_square
from matl_scale.data.images.folder_images import FolderImages
from matl_scale.data.images.gate import MAX_PIXELS, NO_LIMIT, BadImage, LiftedPillowLimit
from matl_scale.data.loading.loader import EvaluationBatches, build_loader
from matl_scale.data.shards.layout import MANIFEST_FILE
from matl_scale.data.shards.manifest import Manifest, read_manifest
from matl_scale.data.shards.reader import SampleReader
from matl_scale.deploy.unlabelled import load_unlabelled
from matl_scale.vision import transforms

SIZE = 24
ENDINGS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "TIFF": "tif"}
JPEG_ERROR, RESIZED_JPEG_ERROR = 8, 12


def square(pixels: np.ndarray) -> np.ndarray:
    return np.asarray(fit_square(Image.fromarray(pixels.astype(np.uint8)), SIZE)).astype(int)


def field_images() -> dict[str, tuple[bytes, np.ndarray]]:
    """Phones store turned pixels and a tag; designers export transparent ones. Each with the pixels that people see."""
    image, images = scene(), dict[str, tuple[bytes, np.ndarray]]()
    for kind, ending in ENDINGS.items():
        for orientation in STORED:
            images[f"{orientation}.{ending}"] = (turned(image, kind, orientation), np.asarray(image))
    for kind in ("JPEG", "PNG", "WEBP"):
        images[f"xmp.{ENDINGS[kind]}"] = (turned_by_xmp(image, kind, 6), np.asarray(image))
    return images | transparent_images()


IMAGES = field_images()
NUM_ORIENTED = 4 * 7 + 3


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All these images in one folder, and the same sharded as they are and with `--resize`."""
    root = tmp_path_factory.mktemp("field")
    (root / "images").mkdir()
    for name, (data, _) in IMAGES.items():
        (root / "images" / name).write_bytes(data)
    rows = "".join(f"{name},{i % 2}\n" for i, name in enumerate(IMAGES))
    (root / "labels.csv").write_text("image,x\n" + rows)
    assert matl_data(shard_arguments(root, root / "kept", "--workers", "1")) == 0
    assert matl_data(shard_arguments(root, root / "resized", "--workers", "1", "--resize", str(SIZE))) == 0
    return root


def pixels_of_set(manifest: Manifest, fit: Fit = "crop") -> dict[str, np.ndarray]:
    """Reads a set as training and evaluation do."""
    source = EvaluationBatches(np.arange(manifest.num_samples), SampleReader(manifest), 16, 0, 1)
    batches = build_loader(source, SIZE, workers=0, fit=fit)
    paths, found = manifest.sample_columns("path").column(0).to_pylist(), {}
    for batch in batches:
        assert not batch.damage
        for sample_id, pixels in zip(batch.sample_ids.tolist(), batch.images.numpy(), strict=True):
            found[paths[sample_id]] = pixels.transpose(1, 2, 0).astype(int)
    return found


def pixels_of_prediction(folder: Path, fit: Fit = "crop") -> dict[str, np.ndarray]:
    found = {}
    for batch in load_unlabelled(FolderImages(root=str(folder)), 16, SIZE, fit, workers=0, max_pixels=NO_LIMIT):
        assert not batch.damaged
        found |= dict(zip(batch.names, batch.images.numpy().transpose(0, 2, 3, 1).astype(int), strict=True))
    return found


def pixels_of_preview(folder: Path, out: Path) -> dict[str, np.ndarray]:
    assert matl_data(["preview", str(folder), "--task", "x", "--count", "99", "--out", str(out)]) == 0
    figures = re.findall(r'src="data:image/png;base64,([^"]+)"><figcaption>([^<]+)', out.read_text(encoding="utf-8"))
    return {name: np.asarray(Image.open(io.BytesIO(base64.b64decode(url)))).astype(int) for url, name in figures}


def check_all(found: dict[str, np.ndarray], jpeg_error: int) -> None:
    assert set(found) == set(IMAGES)
    for name, (_, pixels) in IMAGES.items():
        error = abs(found[name] - square(pixels)).max()
        assert error <= (jpeg_error if name.endswith("jpg") else 1 if "A." in name else 0), name


def test_training_and_evaluation_see_what_people_see(source: Path) -> None:
    check_all(pixels_of_set(read_manifest(source / "kept")), JPEG_ERROR)


def test_resized_sets_hold_what_people_see(source: Path) -> None:
    check_all(pixels_of_set(read_manifest(source / "resized")), RESIZED_JPEG_ERROR)


def test_prediction_sees_what_people_see(source: Path) -> None:
    check_all(pixels_of_prediction(source / "images"), JPEG_ERROR)


@pytest.mark.parametrize("fit", ["squash", "pad"])
def test_evaluation_and_prediction_fit_alike(source: Path, fit: Fit) -> None:
    """Whatever the format and the orientation: what people see, as one image at a time is fitted by hand."""
    of_set, of_prediction = (
        pixels_of_set(read_manifest(source / "kept"), fit),
        pixels_of_prediction(source / "images", fit),
    )
    for name, (_, pixels) in IMAGES.items():
        assert np.array_equal(of_set[name], of_prediction[name])
        error = abs(of_set[name] - fitted_by_hand(pixels.astype(np.uint8), fit)).max()
        assert error <= (JPEG_ERROR if name.endswith("jpg") else 1), name


def fitted_by_hand(pixels: np.ndarray, fit: Fit) -> np.ndarray:
    """As torchvision resizes, and pads on grey."""
    height, width = pixels.shape[:2]
    inner = [SIZE, SIZE] if fit == "squash" else [round(SIZE * side / max(height, width)) for side in (height, width)]
    resized = np.asarray(transforms.functional.resize(Image.fromarray(pixels), inner))
    expected = np.full((SIZE, SIZE, 3), 114)
    top, left = ((SIZE - side) // 2 for side in inner)
    expected[top : top + inner[0], left : left + inner[1]] = resized
    return expected


def test_prediction_of_originals_sees_the_pixels_of_a_resized_set(source: Path) -> None:
    of_set, of_originals = pixels_of_set(read_manifest(source / "resized")), pixels_of_prediction(source / "images")
    for name, pixels in of_originals.items():
        assert abs(pixels - of_set[name]).max() <= (10 if name.endswith("jpg") else 0), name


def test_preview_shows_what_the_network_sees(source: Path, tmp_path: Path) -> None:
    shown = pixels_of_preview(source / "resized", tmp_path / "page.html")
    of_network = pixels_of_set(read_manifest(source / "resized"))
    assert set(shown) == set(IMAGES)
    assert all(np.array_equal(shown[name], of_network[name]) for name in IMAGES)


def test_bytes_stay_and_sizes_are_those_of_the_upright_image(source: Path) -> None:
    manifest = read_manifest(source / "kept")
    samples = manifest.samples.to_pylist()
    assert {(row["width"], row["height"]) for row in samples} == {scene().size}
    stored = SampleReader(manifest).read(np.arange(manifest.num_samples))
    assert all(data == IMAGES[row["path"]][0] for row, data in zip(samples, stored, strict=True))


def test_resized_images_are_upright_without_a_tag(source: Path) -> None:
    manifest = read_manifest(source / "resized")
    assert manifest.image_size() == SIZE
    for data in SampleReader(manifest).read(np.arange(manifest.num_samples)):
        assert isinstance(data, bytes)
        with Image.open(io.BytesIO(data)) as image:
            assert not image.getexif()
            assert image.mode in ("L", "RGB")


def test_the_manifest_counts_images_that_carry_an_orientation(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("kept", "resized"):
        assert read_manifest(source / name).oriented == NUM_ORIENTED
    assert matl_data(["verify", str(source / "kept"), "--workers", "1"]) == 0
    assert matl_data(["info", str(source / "kept")]) == 0
    assert f"{NUM_ORIENTED} images with an orientation" in capsys.readouterr().out
    (tmp_path / "more.csv").write_text("image,y\n" + "".join(f"{name},{i % 2}\n" for i, name in enumerate(IMAGES)))
    assert matl_data(["tasks", "add", str(source / "resized"), "--labels", str(tmp_path / "more.csv")]) == 0
    assert read_manifest(source / "resized").oriented == NUM_ORIENTED


def test_a_set_from_before_orientations_were_counted_stays_readable(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = Path(shutil.copytree(source / "kept", tmp_path / "old"))
    content = json.loads((old / MANIFEST_FILE).read_text())
    del content["versions"][0]["oriented"]
    (old / MANIFEST_FILE).write_text(json.dumps(content))
    assert read_manifest(old).oriented is None
    capsys.readouterr()
    assert matl_data(["info", str(old)]) == 0
    assert "orientation" not in capsys.readouterr().out


def test_malformed_exif_leaves_the_pixels_as_they_are() -> None:
    """Editors that cut EXIF in the middle: browsers show the pixels as stored."""
    for exif in (b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\x7f", b"Exif\0\0MM\0*\0\0\0\x08\0\x09\x01\x12\0\x03"):
        data = encode(scene(), "JPEG", exif=exif)
        assert check_image(data).orientation == 1
        assert abs(decode_image(data, SIZE).astype(int) - square(np.asarray(scene()))).max() <= JPEG_ERROR


@pytest.mark.parametrize("orientation", [3, 6, 7])
@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_print_and_grey_photos_are_upright_too(mode: str, orientation: int) -> None:
    """CMYK takes another decoder than RGB, and large photos are scaled while they are decoded."""
    for image in (scene().convert(mode), scene(480, 360).convert(mode)):
        data = turned(image, "JPEG", orientation)
        expected = square(np.asarray(image.convert("RGB")))
        assert check_image(data)[1:] == ("jpg", *image.size, orientation)
        assert abs(decode_image(data, SIZE).astype(int) - expected).max() <= JPEG_ERROR


@pytest.mark.parametrize("kind", ENDINGS)
def test_a_turned_image_that_has_the_size_already_is_turned(kind: str) -> None:
    image = scene(SIZE, SIZE)
    resized = check_image(turned(image, kind, 3), SIZE).data
    with Image.open(io.BytesIO(resized)) as opened:  # as other tools read the set
        assert not opened.getexif()
        error = abs(np.asarray(opened.convert("RGB")).astype(int) - np.asarray(image)).max()
    assert error <= (RESIZED_JPEG_ERROR if kind == "JPEG" else 0)
    upright = encode(image, kind)
    assert check_image(upright, SIZE).data is upright


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
@pytest.mark.parametrize("size", [SIZE, 36])
def test_of_several_frames_the_first_one_counts(kind: str, size: int) -> None:
    """Animations and scans of several pages among photos."""
    first = scene(36, 36)
    data = encode(first, kind, save_all=True, append_images=[scene(36, 36).rotate(90), Image.new("RGB", (36, 36))])
    with Image.open(io.BytesIO(data)) as opened:
        assert getattr(opened, "n_frames", 1) == 3
        expected = np.asarray(fit_square(opened.convert("RGB"), size))
    assert check_image(data)[2:] == (36, 36, 1)
    assert np.array_equal(decode_image(data, size), expected)
    assert np.array_equal(decode_image(check_image(data, size).data, size), expected)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("size", [SIZE, 36])
def test_grey_images_are_those_with_three_equal_channels(kind: str, size: int) -> None:
    """Scans in grey, with the colour profile of their scanner: other tools of the same data stored three channels."""
    grey, exif = scene(36, 36).convert("L"), Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = encode(grey, kind, exif=exif, icc_profile=profile)
    colour = decode_image(encode(grey.convert("RGB"), kind, exif=exif), size)
    assert np.array_equal(decode_image(data, size), colour)
    resized = check_image(data, size)
    assert (resized.width, resized.height, resized.orientation) == (size, size, 6)
    assert np.array_equal(decode_image(resized.data, size), colour)
    with Image.open(io.BytesIO(resized.data)) as opened:
        assert opened.mode == "L"
        assert "icc_profile" not in opened.info


def test_a_reason_is_never_empty() -> None:
    """A PNG of palette colours whose palette is lost: Pillow's own error has no text."""
    data = encode(scene(36, 36).quantize(8), "PNG")
    start = data.index(b"PLTE") - 4
    end = start + 12 + int.from_bytes(data[start : start + 4], "big")
    with pytest.raises(BadImage, match=r"cannot be decoded \(\d+ bytes\): \w+"):
        check_image(data[:start] + data[end:])


@pytest.mark.parametrize("name", deep_images())
def test_values_of_more_than_8_bits_are_refused_alike(name: str, tmp_path: Path) -> None:
    """16-bit X-rays and depth maps that come out white, and are answered with confidence."""
    data = deep_images()[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(BadImage, match=r"8 bits per channel.*-depth 8") as refusal:
        check_image(data)
    with pytest.raises(BadImage, match=re.escape(str(refusal.value))):
        check_image(data, resize=SIZE)
    batches = list(load_unlabelled(FolderImages(root=str(tmp_path)), 4, SIZE, "crop", workers=0, max_pixels=NO_LIMIT))
    assert [batch.damaged for batch in batches] == [[(name, str(refusal.value))]]


KINDS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM")


@pytest.mark.parametrize("kind", KINDS)
def test_the_limit_of_pixels_is_one_for_all_formats(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A poster of 90 megapixels is refused as PNG and accepted as JPEG."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)  # Pillow's own has no say
    data = encode(scene(), kind)
    pixels = scene().width * scene().height
    assert check_image(data, max_pixels=pixels).width == scene().width
    assert decode_image(data, SIZE, pixels).shape == (SIZE, SIZE, 3)
    refusal = rf"it has 48 × 36 = {pixels} pixels, and the limit is {pixels - 1}: allow more with --max-pixels"
    with pytest.raises(BadImage, match=refusal):
        check_image(data, max_pixels=pixels - 1)
    with pytest.raises(BadImage, match=refusal):
        decode_image(data, SIZE, pixels - 1)
    assert Image.MAX_IMAGE_PIXELS == 10


def test_the_limit_holds_before_anything_is_decoded() -> None:
    """A few bytes that claim to be a huge image."""
    jpeg = bytearray(encode(scene(), "JPEG"))
    start = jpeg.index(b"\xff\xc0") + 5
    jpeg[start : start + 4] = b"\xff\x00\xff\x00"
    for data in (bytes(jpeg), png_of((60_000, 60_000, 8, 2), b"\0"), b"P6 60000 60000 255\n"):
        for call in (check_image, lambda data: decode_image(data, SIZE, MAX_PIXELS)):
            with pytest.raises(BadImage, match="and the limit is 178956970"):
                call(data)


def test_the_limit_of_pillow_comes_back_after_the_last_thread() -> None:
    before = Image.MAX_IMAGE_PIXELS
    first, second = LiftedPillowLimit(), LiftedPillowLimit()
    first.__enter__()
    second.__enter__()
    first.__exit__()
    assert Image.MAX_IMAGE_PIXELS is None
    second.__exit__()
    assert before == Image.MAX_IMAGE_PIXELS


def test_the_limit_can_be_raised_after_images_were_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(encode(scene(), "PNG"))
    (tmp_path / "images" / "b.png").write_bytes(encode(scene(8, 8), "PNG"))
    (tmp_path / "images" / "c.png").write_bytes(encode(scene(9, 8), "PNG"))
    (tmp_path / "labels.csv").write_text("image,x\na.png,0\nb.png,1\nc.png,0\n")
    arguments = shard_arguments(tmp_path, tmp_path / "set", "--workers", "1")
    assert matl_data([*arguments, "--max-pixels", "1000"]) == 2
    assert "a.png: it has 48 × 36 = 1728 pixels, and the limit is 1000" in capsys.readouterr().err
    part = [*arguments, "--skip-bad", "--partition", "1/1"]
    assert matl_data([*part, "--max-pixels", "1000"]) == 0
    assert matl_data(part) == 0
    assert matl_data(["merge", str(tmp_path / "set")]) == 0
    assert read_manifest(tmp_path / "set").num_samples == 3


def inflating_texts() -> dict[str, tuple[bytes, bytes]]:
    """Chunks that inflate beyond what Pillow reads: screenshots with logs, exports with huge colour profiles."""
    packed = zlib.compress(bytes(2 << 20))
    return {
        "zTXt": (b"zTXt", b"log\0\0" + packed),
        "iTXt": (b"iTXt", b"log\0\1\0\0\0" + packed),
        "XMP": (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + packed),
        "iCCP": (b"iCCP", b"profile\0\0" + packed),
    }


@pytest.mark.parametrize("before", [b"IDAT", b"IEND"])
@pytest.mark.parametrize("name", inflating_texts())
def test_a_text_that_inflates_leaves_the_pixels_readable(name: str, before: bytes) -> None:
    for orientation in (1, 6):
        data = with_chunks(turned(scene(), "PNG", orientation), inflating_texts()[name], before=before)
        assert check_image(data)[1:] == ("png", 48, 36, orientation)
        assert np.array_equal(decode_image(data, SIZE), square(np.asarray(scene())))
        assert np.array_equal(decode_image(check_image(data, SIZE).data, SIZE), decode_image(data, SIZE))
    if name != "XMP":
        data = with_chunks(turned_by_xmp(scene(), "PNG", 6), inflating_texts()[name], before=before)
        assert np.array_equal(decode_image(data, SIZE), square(np.asarray(scene())))


def broken_pngs() -> dict[str, bytes]:
    """PNGs whose checksums are right and whose pixels are not there: half-written files that a tool has mended."""
    whole = dict(chunks_of(encode(scene(), "PNG")))
    start, pixels = whole[b"IHDR"], whole[b"IDAT"]
    rows = bytearray(zlib.decompress(pixels))
    rows[0] = 7  # a filter that does not exist
    return {
        "not deflated": join_chunks([(b"IHDR", start), (b"IDAT", bytes(100)), (b"IEND", b"")]),
        "cut": join_chunks([(b"IHDR", start), (b"IDAT", pixels[: len(pixels) // 2]), (b"IEND", b"")]),
        "too few rows": png_of((48, 36, 8, 2), bytes(145 * 30)),
        "unknown filter": png_of((48, 36, 8, 2), bytes(rows)),
        "no pixels": join_chunks([(b"IHDR", start), (b"IEND", b"")]),
        "interlaced and cut": png_of((48, 36, 8, 2), bytes(145 * 3), interlaced=1),
        "palette and cut": join_chunks(
            [
                (b"IHDR", b"\0\0\0\x30\0\0\0\x24\x08\x03\0\0\0"),
                (b"PLTE", bytes(3 * 16)),
                (b"IDAT", zlib.compress(bytes(49 * 3))),
                (b"IEND", b""),
            ]
        ),
        "wrong checksum": encode(scene(), "PNG").replace(pixels[-8:], bytes(8)),
    }


@pytest.mark.parametrize("name", broken_pngs())
def test_a_broken_png_enters_no_set_and_gets_no_prediction(name: str) -> None:
    data = broken_pngs()[name]
    for call in (
        check_image,
        lambda data: check_image(data, max_pixels=NO_LIMIT),  # verify
        lambda data: check_image(data, resize=SIZE),
        lambda data: decode_image(data, SIZE, MAX_PIXELS),  # prediction
    ):
        with pytest.raises(BadImage):
            call(data)


def is_accepted(call: object, data: bytes) -> bool:
    try:
        call(data)  # type: ignore[operator]
    except BadImage:
        return False
    return True


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore")  # Pillow warns of flaws
def test_sharding_and_training_agree_on_damaged_files(kind: str) -> None:
    """Disks and downloads that flip bytes. PNGs get right checksums again, so that the damage reaches the decoder."""
    generator = np.random.default_rng(3)
    whole = encode(scene(), kind)
    verdicts = []
    for _ in range(120):
        data = bytearray(whole)
        for offset in generator.integers(8, len(data), generator.integers(1, 4)).tolist():
            data[offset] = int(generator.integers(0, 256))
        changed = bytes(data[: generator.integers(len(data) // 2, 3 * len(data))])
        if kind == "PNG" and generator.random() < 0.8:
            chunks = list(chunks_of(whole))
            content = bytearray(chunks[1][1])
            content[int(generator.integers(0, len(content)))] ^= 1 << int(generator.integers(0, 8))
            changed = join_chunks([chunks[0], (chunks[1][0], bytes(content)), chunks[2]])
        if is_accepted(check_image, changed):
            assert is_accepted(lambda data: decode_image(data, SIZE), changed)
            verdicts.append(True)
        else:
            assert not is_accepted(lambda data: decode_image(data, SIZE, MAX_PIXELS), changed)
            verdicts.append(False)
    assert len(set(verdicts)) == 2 or kind == "WEBP"
