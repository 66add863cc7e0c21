"""Which files are images, in folders and tars. Stands for reports such as "my .jfif files were never predicted", "a tar made by
macOS holds twice as many images", "hard links are empty", "my labels.parquet in the image folder breaks the next call".
"""

import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from helpers.commands import matl_data, shard_arguments
from matl_scale.commands import predict
from matl_scale.data.images.array_images import encode_png
from matl_scale.data.images.file_kinds import PassedOver, starts_like_image
from matl_scale.data.images.sources import open_images
from matl_scale.data.shards.layout import OPENED_FORMATS
from matl_scale.errors import InputError
from matl_scale.storage.store import Store

RUN = Path(__file__).parents[1] / "data/old/runs/old"
PNG = encode_png(np.arange(192, dtype=np.uint8).reshape(8, 8, 3))


def encode(kind: str, shade: int = 90) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, 20, 30)).save(buffer, kind)
    return buffer.getvalue()


def names_of(root: Path | str) -> tuple[list[str], PassedOver]:
    passed_over = PassedOver()
    return [name for names, _ in open_images(str(root)).names(passed_over) for name in names], passed_over


def write_files(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


@pytest.mark.parametrize("kind", OPENED_FORMATS)
def test_every_format_that_is_opened_is_known_by_its_first_bytes(kind: str) -> None:
    assert starts_like_image(encode(kind)[:32])


@pytest.mark.parametrize(
    "start", [b"", b"BM", b"P5 is a lens", b"RIFF\0\0\0\0WAVE", b"Post", b"MM", b"\xff\xd8", b"%PDF-1.7"]
)
def test_other_files_are_not_taken_for_images(start: bytes) -> None:
    assert not starts_like_image(start)


IMAGE_FILES = {
    "a.JFIF": encode("JPEG"),  # as Edge and Windows save photos
    "b.jpe": encode("JPEG"),
    "c.TIF": encode("TIFF"),
    "d.Jpeg": encode("JPEG"),
    "e": encode("PNG"),  # no ending, as in caches named by hash
    "f.jpg_large": encode("JPEG"),  # as a social network once named them
    "g.pbm": b"P1\n2 2\n1 0\n0 1\n",
    "h/0001.photo.1": encode("WEBP"),
}
OTHER_FILES = {
    "Thumbs.db": b"\xd0\xcf",
    "notes.txt": b"x",
    "a.json": b"{}",
    "readme": b"words",
    "k.heic": b"\0\0\0\x18ftypheic",
    "raw.NEF": b"II*\0\x08\0\0\0",  # begins like a TIFF
    "old.png~": PNG,
    ".DS_Store": b"\0",
    "._a.JFIF": b"\0\5\x16\7",
}


@pytest.mark.parametrize("remote", [False, True])
def test_images_are_known_by_ending_in_any_case_or_by_content(tmp_path: Path, remote: bool) -> None:
    root = write_files(tmp_path, IMAGE_FILES | OTHER_FILES)
    url = str(root)
    if remote:
        url = "memory://field-kinds"
        for name, data in (IMAGE_FILES | OTHER_FILES).items():
            Store(url).write_bytes(name, data)
    names, passed_over = names_of(url)
    assert sorted(names) == sorted(IMAGE_FILES)
    expected = {".db": 1, ".txt": 1, ".json": 1, "no ending": 1, ".heic": 1, ".nef": 1, ".png~": 1, "hidden": 2}
    assert passed_over.counts == expected
    text = passed_over.describe()
    assert text.startswith("passed over 9 files that are no images: 2 hidden (")
    assert "convert them to JPEG or PNG" in text


def test_links_that_lead_nowhere_are_counted(tmp_path: Path) -> None:
    write_files(tmp_path, {"a.png": PNG})
    (tmp_path / "b.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "c.png").symlink_to(tmp_path / "a.png")
    os.mkfifo(tmp_path / "d.png")
    names, passed_over = names_of(tmp_path)
    assert names == ["a.png", "c.png"]
    assert passed_over.counts == {"links that lead nowhere": 1, "not regular": 1}


def test_predict_takes_them_all_and_says_what_it_passes_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = write_files(tmp_path / "images", IMAGE_FILES | OTHER_FILES)
    out = tmp_path / "out.parquet"
    arguments = ["--run", str(RUN), "--images", str(images), "--out", str(out), "--workers", "0"]
    assert predict.main(arguments) == 0
    assert set(pq.read_table(out)["image"].to_pylist()) == set(IMAGE_FILES)
    assert "passed over 9 files that are no images" in capsys.readouterr().err


def test_shard_takes_the_same_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_files(tmp_path / "images", IMAGE_FILES | OTHER_FILES)
    rows = [f"{name},{i % 2}" for i, name in enumerate(IMAGE_FILES)]
    (tmp_path / "labels.csv").write_text("\n".join(["image,x", *rows]))
    assert matl_data(shard_arguments(tmp_path, tmp_path / "set", "--workers", "1")) == 0
    assert "passed over 9 files" in capsys.readouterr().err


def test_a_folder_without_images_says_what_is_there(tmp_path: Path) -> None:
    write_files(tmp_path, {"a.heic": b"x", "b.heic": b"x", "sub/c.tar": b"x"})
    with pytest.raises(InputError, match=r"holds no image.*2 \.heic \(a\.heic\), 1 \.tar \(sub/c\.tar\).*convert them"):
        open_images(str(tmp_path))


def write_tar(path: Path, members: list[tuple[str, bytes | tuple[bytes, str]]], form: int = tarfile.PAX_FORMAT) -> Path:
    """Writes members: their content, or the kind of a link and its target."""
    with tarfile.open(path, "w", format=form) as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
            else:
                member.type, member.linkname = content
                tar.addfile(member)
    return path


def test_names_in_tars_have_no_leading_dot_or_slash(tmp_path: Path) -> None:
    members = [("./a.png", PNG), ("./d//b.png", PNG), ("/c.png", PNG), ("./._a.png", b"\0\5"), ("./a.txt", b"0")]
    names, passed_over = names_of(write_tar(tmp_path / "x.tar", members))
    assert names == ["x.tar/a.png", "x.tar/d/b.png", "x.tar/c.png"]
    assert passed_over.counts == {"hidden": 1, ".txt": 1}


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_long_names_and_letters_of_any_language(tmp_path: Path, form: int) -> None:
    long = "é" * 60 + "/" + "x" * 150 + ".png"
    assert names_of(write_tar(tmp_path / "x.tar", [(long, PNG)], form))[0] == [f"x.tar/{long}"]


def test_links_in_tars_are_what_they_point_to(tmp_path: Path) -> None:
    white, black = encode("PNG", 250), encode("PNG", 1)
    members: list[tuple[str, bytes | tuple[bytes, str]]] = [
        ("./d/a.png", white),
        ("./hard.png", (tarfile.LNKTYPE, "./d/a.png")),
        ("d/soft.png", (tarfile.SYMTYPE, "a.png")),
        ("e/up", (tarfile.SYMTYPE, "../d/soft.png")),  # a link to a link, without an ending
        ("b.png", black),
        ("out.png", (tarfile.SYMTYPE, "/data/out.png")),
        ("circle.png", (tarfile.SYMTYPE, "circle.png")),
        ("to_text", (tarfile.SYMTYPE, "t.txt")),
        ("t.txt", b"words"),
    ]
    images = open_images(str(write_tar(tmp_path / "x.tar", members)))
    passed_over = PassedOver()
    names, indices = next(images.names(passed_over))
    found = dict(zip(names, images.read(names, indices), strict=True))
    whites = {f"x.tar/{name}": white for name in ("d/a.png", "hard.png", "d/soft.png", "e/up")}
    assert found == whites | {"x.tar/b.png": black}
    assert passed_over.counts == {"links that lead nowhere": 2, ".txt": 1, "no ending": 1}


def test_the_last_of_two_members_of_one_name_counts(tmp_path: Path) -> None:
    old, new = encode("PNG", 1), encode("PNG", 250)
    images = open_images(str(write_tar(tmp_path / "x.tar", [("a.png", old), ("./a.png", new)])))
    names, indices = next(images.names())
    assert names == ["x.tar/a.png"]
    assert list(images.read(names, indices)) == [new]


@pytest.mark.parametrize(("mode", "command"), [("gz", "gunzip"), ("bz2", "bunzip2"), ("xz", "unxz")])
def test_a_compressed_tar_is_refused_with_the_way_out(tmp_path: Path, mode: str, command: str) -> None:
    with tarfile.open(tmp_path / "x.tar", f"w:{mode}") as tar:  # type: ignore[call-overload]
        member = tarfile.TarInfo("a.png")
        member.size = len(PNG)
        tar.addfile(member, io.BytesIO(PNG))
    with pytest.raises(InputError, match=f"compressed tar.*`{command}`"):
        open_images(str(tmp_path / "x.tar"))
    (tmp_path / "x.tar").rename(tmp_path / f"x.tar.{mode}")
    with pytest.raises(InputError, match="Unpack it first"):
        open_images(str(tmp_path / f"x.tar.{mode}"))


def write_table(path: Path, **columns: object) -> None:
    pq.write_table(pa.table(columns), path)


def test_labels_and_predictions_beside_images_are_passed_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = write_files(tmp_path / "images", {"a.png": PNG, "b.png": encode("PNG"), "labels.csv": b"image,x\n"})
    write_table(images / "labels.parquet", image=["a.png", "b.png"], x=[0, 1])
    write_tar(images / "texts.tar", [("a.txt", b"words")])
    arguments = ["--run", str(RUN), "--images", str(images), "--workers", "0", "--out", str(images / "out.parquet")]
    for tables in (1, 2):  # the second call finds the predictions of the first
        assert predict.main(arguments) == 0
        said = capsys.readouterr().err
        assert f"{tables} .parquet without images (labels.parquet" in said
        assert "1 .tar without images (texts.tar)" in said
        assert "Unpack" not in said
    labels = "images/labels.parquet"
    assert matl_data(shard_arguments(tmp_path, tmp_path / "set", "--workers", "1", labels=labels)) == 0


def test_a_parquet_file_of_labels_among_those_of_images_is_passed_over(tmp_path: Path) -> None:
    write_table(tmp_path / "a.parquet", name=["a.png"], image=[PNG])
    write_table(tmp_path / "labels.parquet", image=["a.png"], x=[1])
    names, passed_over = names_of(tmp_path)
    assert names == ["a.png"]
    assert passed_over.counts == {".parquet without images": 1}


def test_a_folder_of_label_tables_alone_is_refused_by_name(tmp_path: Path) -> None:
    write_table(tmp_path / "labels.parquet", image=["a.png"], x=[1])
    with pytest.raises(InputError, match=r"labels.parquet should have the columns `name` and `image`"):
        open_images(str(tmp_path))


@pytest.mark.parametrize("name", ["top.png", "sub/deep.png"])
def test_two_kinds_of_images_are_refused_wherever_they_lie(tmp_path: Path, name: str) -> None:
    write_files(tmp_path, {name: PNG})
    write_tar(tmp_path / "x.tar", [("a.png", PNG)])
    with pytest.raises(InputError, match="both tars and images"):
        open_images(str(tmp_path))
