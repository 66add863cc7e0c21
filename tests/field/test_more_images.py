"""More images and archives from the field: what other tools are reported to choke on, and what becomes of it here."""

import csv
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data_prep.image_check import check_image
from helpers.commands import matl_data, shard_arguments
from matl_scale.data.images.array_images import encode_png
from matl_scale.data.images.decode import decode_image
from matl_scale.data.images.gate import BadImage
from matl_scale.data.images.sources import open_images
from matl_scale.data.shards.manifest import read_manifest
from matl_scale.errors import InputError

FRAMES = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
PNG = encode_png(np.full((8, 8, 3), 90, dtype=np.uint8))


def write_source(folder: Path, images: dict[str, bytes], rows: list[str] | None = None) -> Path:
    """Writes images, and a label file with a row for each, or for each of `rows`."""
    for name, data in images.items():
        (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "images" / name).write_bytes(data)
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image", "x"), *((name, i % 2) for i, name in enumerate(rows or images))])
    return folder


def encode(folder: Path, save: Callable[[Path], None], ending: str) -> bytes:
    save(folder / f"image.{ending}")
    return (folder / f"image.{ending}").read_bytes()


# Reports: "animated GIF crashes the loader", "MPO from my phone is skipped": only the first picture counts
@pytest.mark.parametrize(
    ("kind", "ending"), [("GIF", "gif"), ("WEBP", "webp"), ("TIFF", "tif"), ("MPO", "jpg"), ("PNG", "png")]
)
def test_of_several_pictures_in_a_file_the_first_is_used(tmp_path: Path, kind: str, ending: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encode(
        tmp_path, lambda path: FRAMES[0].save(path, kind, save_all=True, append_images=FRAMES[1:], **options), ending
    )
    pixels = decode_image(data, 8)
    assert np.abs(pixels.astype(int) - [255, 0, 0]).max() <= 2
    assert (check_image(data).width, check_image(data).height) == (8, 8)


# Reports: "wrong extension breaks training": the content decides, and the set names it truly
def test_a_wrong_ending_does_not_matter(tmp_path: Path) -> None:
    jpeg = encode(tmp_path, lambda path: FRAMES[0].save(path, "JPEG"), "bin")
    folder = write_source(tmp_path / "source", {"a.png": jpeg, "b.jpg": PNG})
    assert matl_data(shard_arguments(folder, tmp_path / "set")) == 0
    assert read_manifest(tmp_path / "set").sample_columns("extension").column(0).to_pylist() == ["jpg", "png"]


# Reports: "ValueError: height and width must be > 0 after resize": panoramas and single pixels
@pytest.mark.parametrize("shape", [(1, 1), (1, 3000), (3000, 1), (7, 5)])
def test_any_shape_becomes_a_square(shape: tuple[int, int]) -> None:
    data = encode_png(np.full((*shape, 3), 77, dtype=np.uint8))
    assert (decode_image(data, 8) == 77).all()
    assert check_image(data, resize=8)[2:4] == (8, 8)


# Reports: "image file is truncated (N bytes not processed)": a download that ended early is refused, junk after the end is not
def test_junk_after_a_jpeg_is_no_damage_and_a_missing_end_is(tmp_path: Path) -> None:
    data = encode(tmp_path, lambda path: Image.effect_noise((64, 64), 90).save(path), "jpg")
    assert np.array_equal(decode_image(data + b"\0" * 5000 + b"junk", 64), decode_image(data, 64))
    for cut in (data[:-2], data[: len(data) // 2]):
        with pytest.raises(BadImage):
            check_image(cut)


# Reports: "cannot identify image file" after a scraper saved error pages, and Git LFS pointers in place of images
@pytest.mark.parametrize(
    "content", [b"<!doctype html><title>404</title>", b"version https://git-lfs.github.com/spec/v1\noid"]
)
def test_pages_and_pointers_saved_as_images_are_named(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_source(tmp_path, {"a.png": PNG, "b.jpg": content, "c.png": PNG, "d.png": PNG})
    assert matl_data(shard_arguments(folder, tmp_path / "set")) == 2
    assert "b.jpg: it is no image of a known kind" in capsys.readouterr().err
    assert matl_data(shard_arguments(folder, tmp_path / "set", "--skip-bad")) == 0
    assert read_manifest(tmp_path / "set").num_samples == 3


# Report: all positive examples of a class came from one broken download, and the task was trained on the rest
@pytest.mark.parametrize("split", ["train", "val"])
def test_classes_that_bad_images_take_along_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], split: str
) -> None:
    folder = write_source(tmp_path, {"a.png": PNG, "b.png": b"no image", "c.png": PNG, "d.png": PNG})
    rows = ["a.png,0,train", "b.png,1,train", "c.png,0,train", f"d.png,{int(split == 'val')},{split}"]
    (folder / "labels.csv").write_text("\n".join(["image,x,part", *rows]))
    options = ("--skip-bad", "--split-column", "part", "--workers", "1")
    assert matl_data(shard_arguments(folder, tmp_path / "set", *options)) == 0
    lost = "`x` has only `0`" if split == "train" else "class `1` of task `x` in val"
    said = [line for line in capsys.readouterr().err.splitlines() if "without the bad images: " in line]
    assert len(said) == 1
    assert lost in said[0]


# Reports: "file names with commas / quotes / line breaks / leading dashes are not found"
def test_names_of_any_kind_keep_their_labels(tmp_path: Path) -> None:
    names = [
        "-x.png",
        "a.b.c.png",
        " lead.png",
        "ü ñ.png",
        "a,b.png",
        'q"q.png',
        "new\nline.png",
        "tab\t.png",
        "a%20b.png",
        "#1.png",
    ]
    pictures = {name: encode_png(np.full((4, 4, 3), 10 * i, dtype=np.uint8)) for i, name in enumerate(names)}
    assert matl_data(shard_arguments(write_source(tmp_path, pictures), tmp_path / "set")) == 0
    manifest = read_manifest(tmp_path / "set")
    paths = manifest.sample_columns("path").column(0).to_pylist()
    assert sorted(paths) == sorted(names)
    assert manifest.labels()[:, 0].tolist() == [names.index(path) % 2 for path in paths]


# Reports: "Periods in base filename interpreted as extensions": a dot in the name of a member is part of it
def test_dots_in_the_names_of_members_are_no_endings(tmp_path: Path) -> None:
    names = ["22.05.png", "22.06.png", "v1.0/a.png", "v1.0/b.png"]
    folder = write_source(tmp_path, dict.fromkeys(names, PNG), [f"i.tar/{name}" for name in names])
    with tarfile.open(tmp_path / "i.tar", "w") as tar:
        for name in names:
            tar.add(folder / "images" / name, name)
    assert matl_data(shard_arguments(folder, tmp_path / "set", images="i.tar")) == 0
    assert read_manifest(tmp_path / "set").num_samples == 4


# Report: "only the first part of my concatenated tar is read": nothing is lost in silence
def test_tars_joined_with_cat_are_refused(tmp_path: Path) -> None:
    write_source(tmp_path, {"a.png": PNG})
    with tarfile.open(tmp_path / "one.tar", "w") as tar:
        tar.add(tmp_path / "images/a.png", "a.png")
    one = (tmp_path / "one.tar").read_bytes()
    (tmp_path / "two.tar").write_bytes(one + one)
    with pytest.raises(InputError, match=r"more follows its end at byte .*--concatenate"):
        open_images(str(tmp_path / "two.tar"))
    (tmp_path / "padded.tar").write_bytes(one + bytes(50_000))
    assert open_images(str(tmp_path / "padded.tar"))


# Report: "Leading zeros are stripped from filename": a table program read the names as numbers
def test_names_that_lost_their_zeros_are_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_source(tmp_path, {f"{i:06d}.png": PNG for i in range(4)})
    pq.write_table(pa.table({"image": range(4), "x": [0, 1, 0, 1]}), tmp_path / "labels.parquet")
    assert matl_data(shard_arguments(tmp_path, tmp_path / "set", labels="labels.parquet")) == 2
    assert "4 differ only in leading zeros (image `000000.png`, label row `0`)" in capsys.readouterr().err


# Report: "my first image is missing": a table without a header loses its first row
def test_a_table_without_a_header_is_recognised(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_source(tmp_path, {"a.png": PNG, "b.png": PNG})
    (folder / "labels.csv").write_text("a.png,0\nb.png,1\n")
    assert matl_data(shard_arguments(folder, tmp_path / "set")) == 2
    assert "Its first line looks like a row" in capsys.readouterr().err


# Reports: "too many levels of symbolic links", "the loader hangs on a pipe", "FileNotFoundError for a dangling link"
def test_links_and_pipes_in_a_folder_neither_hang_nor_repeat(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_source(tmp_path, {"a.png": PNG, "b.png": PNG})
    (folder / "images/again").symlink_to(folder / "images")
    (folder / "images/c.png").symlink_to("/nowhere/c.png")
    os.mkfifo(folder / "images/d.png")
    assert matl_data(shard_arguments(folder, tmp_path / "set")) == 0
    assert read_manifest(tmp_path / "set").num_samples == 2
    error = capsys.readouterr().err
    assert "links that lead nowhere (c.png)" in error
    assert "not regular (d.png)" in error
