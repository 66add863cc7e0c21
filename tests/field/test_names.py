"""Names in label files that differ from those of the images. Stands for reports such as "labels made on Windows are unmatched",
"accented file names from a Mac are not found", "34863 label rows have no image (ten names and 1 more)".
"""

import unicodedata
from pathlib import Path

import numpy as np
import pytest

from data_prep.labels.mismatches import explain_mismatches
from data_prep.labels.name_index import NameIndex, are_plain, plain_name
from helpers.commands import matl_data, shard_arguments
from matl_scale.data.images.array_images import encode_png
from matl_scale.data.shards.manifest import read_manifest
from matl_scale.errors import shortened

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "café/süß.png") for form in ("NFC", "NFD"))
SAME = {
    "composed and decomposed letters": (COMPOSED, DECOMPOSED),
    "decomposed and composed letters": (DECOMPOSED, COMPOSED),
    "a leading ./": ("a/b.png", "./a/b.png"),
    "backslashes": ("a/b.png", "a\\b.png"),
    "a doubled slash": ("a/b.png", "a//b.png"),
    "blanks at the end": ("a/b.png", "a/b.png \t"),
    "a hard blank before": ("a/b.png", "\u00a0a/b.png"),
    "no ending": ("a/b.png", ".\\a\\b"),
}


@pytest.mark.parametrize("case", SAME)
def test_names_that_differ_in_writing_only_match(case: str) -> None:
    image, row = SAME[case]
    index = NameIndex(lambda: iter([["other.png", row]]), "row")
    assert index.find([image, "x.png"]).tolist() == [1, -1]
    assert NameIndex(lambda: iter([[image, "z"]]), "row").find([f"./{image}"]).tolist() == [0]


@pytest.mark.parametrize("row", ["A/b.png", "a/b.jpg", "b.png", "c/a/b.png", "../a/b.png"])
def test_case_ending_and_folder_are_not_guessed(row: str) -> None:
    assert NameIndex(lambda: iter([[row]]), "row").find(["a/b.png"]).tolist() == [-1]


def test_an_exact_name_wins_and_rows_that_cannot_be_told_apart_match_nothing() -> None:
    index = NameIndex(lambda: iter([["./a.png", "a.png", "./b.png", ".//b.png"]]), "row")
    assert index.find(["a.png", "b.png"]).tolist() == [1, -1]


@pytest.mark.parametrize("name", ["a/b.png", "a b.png", "..a.png", "a..b/c.png", ".a", "0.5/x"])
def test_a_plain_name_stays_as_it_is(name: str) -> None:
    assert plain_name(name) == name


@pytest.mark.parametrize(
    "row", [row for _, row in SAME.values()] + ["", ".", "..", "a/.", "a ", "\x1fa", "a\u2003", "a\n", "\na"]
)
def test_a_chunk_is_plain_only_if_every_name_is(row: str) -> None:
    changes = plain_name(row) != row
    assert not (changes and are_plain(["b.png", row, "c.png"]))
    assert are_plain(["a/b.png", "a b.png", "c"])


WHY = {
    "case": (
        "IMG_1.JPG",
        "img_1.jpg",
        "1 differ only in upper and lower case (image `IMG_1.JPG`, label row `img_1.jpg`)",
    ),
    "ending": ("a.jpeg", "a.jpg", "1 differ only in the ending (image `a.jpeg`, label row `a.jpg`)"),
    "case and ending": ("IMG.JPEG", "img.jpg", "in case and ending"),
    "URL": ("a b.png", "file://a%20b.png", "by being a URL"),
    "folder in the images": (
        "img/a.png",
        "a.png",
        "in the folder (image `img/a.png`, label row `a.png`). Use --images photos/img.",
    ),
    "folder in the rows": ("a.png", "train/a.png", "Give paths below --images"),
    "drive": ("a.png", "C:\\Users\\me\\a.png", "in the folder (image `a.png`, label row `C:\\Users\\me\\a.png`)"),
    "member of a tar": ("x.tar/d/a.png", "d/a.png", "named TAR/MEMBER: put `x.tar/` before"),
    "folder and case": ("img/A.PNG", "a.png", "in folder, and in case or ending"),
}


@pytest.mark.parametrize("case", WHY)
def test_why_names_do_not_match_is_said(case: str) -> None:
    image, row, expected = WHY[case]
    assert expected in explain_mismatches([image, "foreign_1.png"], [row, "foreign_2.png"], "photos")


def test_each_difference_has_its_count_and_names_in_common_are_not_made_up() -> None:
    images = [f"IMG_{i}.PNG" for i in range(3)] + ["a.jpeg", "p/q.png", "r/q.png"]
    rows = [f"img_{i}.png" for i in range(3)] + ["a.jpg", "q.png"]  # two images may be q.png
    text = explain_mismatches(images, rows, "photos")
    assert text.startswith("3 differ only in upper and lower case")
    assert "1 differ only in the ending" in text
    assert "q.png" not in text
    assert not explain_mismatches(["a.png"], ["b.png"], "photos")


def test_a_list_that_is_cut_says_how_many_there_are() -> None:
    assert shortened(["a", "b", "c"], 2, total=34_863) == "a, b and 34,861 more"
    assert shortened(["a", "b"], 2) == "a, b"


def write_source(root: Path, images: list[str], rows: list[str]) -> None:
    for i, name in enumerate(images):
        path = root / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_png(np.full((4, 4), i, dtype=np.uint8)))
    lines = [f'"{row}",{i % 2}' for i, row in enumerate(rows)]
    (root / "labels.csv").write_text("\n".join(["image,x", *lines]), encoding="utf-8")


def test_labels_from_windows_and_images_from_a_mac(tmp_path: Path) -> None:
    images = [unicodedata.normalize("NFD", f"köln/{i}.png") for i in range(4)]
    write_source(tmp_path, images, [f".\\köln\\{i}.png" for i in range(4)])
    assert matl_data(shard_arguments(tmp_path, tmp_path / "set", "--workers", "1")) == 0
    manifest = read_manifest(tmp_path / "set")
    assert manifest.samples["path"].to_pylist() == images
    assert manifest.labels()[:, 0].tolist() == [0, 1, 0, 1]


def test_two_images_never_share_a_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [unicodedata.normalize(form, "é.png") for form in ("NFC", "NFD")]
    write_source(tmp_path, [*names, "b.png"], [".\\é.png", "b.png"])
    assert matl_data(shard_arguments(tmp_path, tmp_path / "set", "--workers", "1")) == 2
    assert "share theirs with another one" in capsys.readouterr().err


def test_the_error_says_why_and_counts_rightly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    count = 40
    write_source(tmp_path, [f"{i}.PNG" for i in range(count)], [f"{i}.png" for i in range(count)])
    assert matl_data(shard_arguments(tmp_path, tmp_path / "set", "--workers", "1")) == 2
    error = capsys.readouterr().err
    assert "40 images have no label row" in error
    assert "40 label rows have no image (0.png, 1.png, 10.png" in error
    assert error.count("and 30 more") == 2
    assert "40 differ only in upper and lower case (image `0.PNG`, label row `0.png`)" in error


def test_tasks_that_are_added_later_match_alike(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_source(tmp_path, [f"a/{i}.png" for i in range(4)], [f"a/{i}.png" for i in range(4)])
    assert matl_data(shard_arguments(tmp_path, tmp_path / "set", "--workers", "1")) == 0
    add = ["tasks", "add", str(tmp_path / "set"), "--labels", str(tmp_path / "more.csv")]
    (tmp_path / "more.csv").write_text("image,y\n" + "".join(f"{i}.png,{i % 2}\n" for i in range(4)))
    assert matl_data(add) == 2
    error = capsys.readouterr().err
    assert "4 differ only in the folder (image `a/0.png`, label row `0.png`)" in error
    assert "as they are in the set" in error
    (tmp_path / "more.csv").write_text("image,y\n" + "".join(f"a\\{i}.png,{i % 2}\n" for i in range(4)))
    assert matl_data(add) == 0
    assert read_manifest(tmp_path / "set").labels([1])[:, 0].tolist() == [0, 1, 0, 1]
