"""What is decided before a tar is written: classes of label files, splits, duplicates; and the tar headers."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.image_check import BadImage, check_image
from data_prep.labels.matrix import ColumnRoles, read_labels
from data_prep.labels.name_index import NameIndex
from data_prep.planning.copies import find_copies
from data_prep.planning.splits import Draw, draw_splits
from data_prep.writing.tar import build_headers
from helpers.commands import matl_data
from helpers.sources_on_disk import write_images
from matl_scale.data.images.array_images import encode_png
from matl_scale.data.shards.manifest import read_manifest
from matl_scale.errors import InputError
from matl_scale.tasks import Task


def read(tmp_path: Path, lines: list[str], **columns: object):  # type: ignore[no-untyped-def]
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    return read_labels(str(tmp_path / "labels.csv"), ColumnRoles(**columns), tmp_path)  # type: ignore[arg-type]


def test_numbers_booleans_and_words_become_classes(tmp_path: Path) -> None:
    lines = ["image,age,flag,hair,code", "a,10,True,red,007", "b,9.0,false,,7", "c,nan,FALSE,Black,007", "d,,,red,8"]
    found = read(tmp_path, lines, text=["code"])
    assert [(task.name, task.classes) for task in found.tasks] == [
        ("age", ("9", "10")),
        ("flag", ("false", "true")),
        ("hair", ("Black", "red")),
        ("code", ("007", "7", "8")),
    ]
    assert found.matrix.tolist() == [[1, 1, 1, 0], [0, 0, -1, 1], [-1, 0, 0, 0], [-1, -1, 1, 2]]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["image,x", "a,1", "b,yes", "c,0"], "column `x`: labels should be all numbers or all words. Got 0, 1 and yes"),
        (["image,x", "a,1", "b,true"], "all numbers or all words"),
        (["image,x", "a,1.5", "b,1"], "Got fractions"),
        (["image,x", "a,1e999", "b,1"], "Got fractions"),
        (["image,x", "a,"], "no value at all"),
        (["image,x", "a,1", ",0"], "Data row 2 has none"),
        (["image,x", *(f"{i},c{i}" for i in range(65_537))], "at most 65,535 classes"),
        (["image,x,x", "a,1,0"], "column of"),
    ],
)
def test_columns_that_cannot_be_labels(tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(InputError) as caught:
        read(tmp_path, lines)
    assert message in str(caught.value)


def test_as_many_classes_as_are_allowed(tmp_path: Path) -> None:
    found = read(tmp_path, ["image,x", *(f"{i},c{i:05d}" for i in range(65_535))])
    assert found.tasks[0].num_classes == 65_535
    assert found.matrix.dtype == np.int32
    np.testing.assert_array_equal(found.matrix[:, 0], np.arange(65_535))


def test_types_of_parquet_are_kept(tmp_path: Path) -> None:
    table = pa.table(
        {"image": ["a", "b", "c"], "x": ["1", "two", ""], "y": pa.array([True, None, False]), "z": [3, 1, 2]}
    )
    pq.write_table(table, tmp_path / "labels.parquet")
    found = read_labels(str(tmp_path / "labels.parquet"), ColumnRoles(), tmp_path)
    assert [task.classes for task in found.tasks] == [("1", "two"), ("false", "true"), ("1", "2", "3")]
    assert found.matrix.tolist() == [[0, 1, 2], [1, -1, 0], [-1, 0, 1]]


def test_names_are_found_with_and_without_extension() -> None:
    index = NameIndex(lambda: iter([["a", "b.png"], ["c/d.jpg"]]), "name")
    assert index.find(["a.png", "b.png", "b.jpg", "c/d.jpg", "c/d", "x"]).tolist() == [0, 1, -1, 2, -1, -1]
    with pytest.raises(InputError, match="2 occur more than once: a, b"):
        NameIndex(lambda: iter([["a", "b", "c"], ["b", "a"]]), "name")


def random_labels(num_images: int, num_tasks: int) -> tuple[np.ndarray, list[Task]]:
    """Returns binary and three-class labels, with classes from very rare to common."""
    generator = np.random.default_rng(0)
    labels = np.zeros((num_images, num_tasks), dtype=np.int8)
    for column in range(num_tasks):
        labels[generator.permutation(num_images)[: 3 + 4 * column], column] = 1
        labels[generator.permutation(num_images)[: 10 * column], column] = -1
    tasks = [Task(name=str(i), classes=("no", "yes")) for i in range(num_tasks)]
    return labels, tasks


def test_stratified_splits_have_every_class_in_its_share() -> None:
    labels, tasks = random_labels(1000, 30)
    draw = Draw(fractions={"train": 0.8, "val": 0.1, "test": 0.1}, stratify=True, seed=3)
    splits = draw_splits(labels, tasks, draw)
    assert (abs(np.bincount(splits) - [800, 100, 100]) <= 20).all()
    for column in range(30):
        for value in (0, 1):
            counts = np.bincount(splits[labels[:, column] == value], minlength=3)
            if counts.sum() >= 3:
                assert counts.min() >= 1, (column, value, counts)
            expected = np.array([0.8, 0.1, 0.1]) * counts.sum()
            assert (abs(counts - expected) <= 3 + 0.05 * counts.sum()).all()
    assert (draw_splits(labels, tasks, draw) == splits).all()


def test_plain_draws_lose_rare_classes_where_stratified_ones_do_not() -> None:
    labels, tasks = random_labels(1000, 30)

    def lost(stratify: bool, seed: int) -> int:
        draw = Draw(fractions={"train": 0.8, "val": 0.1, "test": 0.1}, stratify=stratify, seed=seed)
        splits = draw_splits(labels, tasks, draw)
        return sum((np.bincount(splits[labels[:, c] == 1], minlength=3) == 0).sum() for c in range(30))

    assert sum(lost(True, seed) for seed in range(5)) == 0
    assert sum(lost(False, seed) for seed in range(5)) > 0


def test_a_class_in_val_only_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = write_images(tmp_path / "images", 6)
    rows = [
        f"{name},{kind},{part}" for name, kind, part in zip(names, "ababac", ["train"] * 4 + ["val"] * 2, strict=True)
    ]
    (tmp_path / "labels.csv").write_text("\n".join(["image,kind,part", *rows]))
    arguments = [
        "shard",
        "--images",
        str(tmp_path / "images"),
        "--labels",
        str(tmp_path / "labels.csv"),
        "--workers",
        "1",
    ]
    assert matl_data([*arguments, "--split-column", "part", "--out", str(tmp_path / "set")]) == 2
    assert "class `c` of task `kind` in val" in capsys.readouterr().err
    assert not (tmp_path / "set").exists()


def test_more_than_128_classes_survive_the_round_trip(tmp_path: Path) -> None:
    names = write_images(tmp_path / "images", 400)
    (tmp_path / "labels.csv").write_text("\n".join(["image,id", *(f"{name},{i // 2}" for i, name in enumerate(names))]))
    arguments = [
        "shard",
        "--images",
        str(tmp_path / "images"),
        "--labels",
        str(tmp_path / "labels.csv"),
        "--workers",
        "1",
    ]
    assert matl_data([*arguments, "--out", str(tmp_path / "set")]) == 0
    manifest = read_manifest(tmp_path / "set")
    labels = dict(zip(manifest.samples["path"].to_pylist(), manifest.labels()[:, 0].tolist(), strict=True))
    assert labels == {name: i // 2 for i, name in enumerate(names)}
    assert matl_data(["verify", str(tmp_path / "set"), "--workers", "1"]) == 0


def test_duplicates_against_a_slow_search() -> None:
    generator = np.random.default_rng(0)
    values = generator.integers(0, 40, 100)
    digests = np.array([bytes([value]) * 8 + bytes(8) for value in values], dtype="V16")
    digests[50:] = np.array(
        [bytes([value]) * 8 + b"x" * 8 for value in values[50:]], dtype="V16"
    )  # halves that collide
    ranks = generator.integers(0, 3, 100)
    copies, originals = find_copies(digests, ranks)
    groups: dict[bytes, list[int]] = {}
    for row, digest in enumerate(digests):
        groups.setdefault(digest.tobytes(), []).append(row)
    best = {digest: min(rows, key=lambda row: (ranks[row], row)) for digest, rows in groups.items()}
    expected = {row: best[digest] for digest, rows in groups.items() for row in rows if row != best[digest]}
    assert dict(zip(copies.tolist(), originals.tolist(), strict=True)) == expected


def test_headers_are_those_of_tarfile() -> None:
    names = ["000000000.png", "000000001.npy", "123456789.jpg"]
    sizes = np.array([0, 513, 8 * 2**30 - 1])
    for name, size, header in zip(names, sizes.tolist(), build_headers(names, sizes), strict=True):
        member = tarfile.TarInfo(name)
        member.size, member.mode = size, 0o644
        assert header.tobytes() == member.tobuf(tarfile.USTAR_FORMAT)


def test_png_is_checked_whole() -> None:
    data = encode_png(np.random.default_rng(0).integers(0, 256, (9, 11, 3), dtype=np.uint8))
    assert check_image(data)[1:] == ("png", 11, 9)
    for cut in range(30, len(data), 37):
        with pytest.raises(BadImage):
            check_image(data[:cut])
    for offset in range(16, len(data) - 12, 5):
        flipped = bytearray(data)
        flipped[offset] ^= 4
        with pytest.raises(BadImage):
            check_image(bytes(flipped))


def test_a_jpeg_that_is_cut_off_is_bad() -> None:
    from PIL import Image

    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG")
    assert check_image(buffer.getvalue())[1:] == ("jpg", 30, 40)
    for share in (0.3, 0.6, 0.95):
        with pytest.raises(BadImage):
            check_image(buffer.getvalue()[: int(share * len(buffer.getvalue()))])


def test_file_names_that_are_no_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = write_images(tmp_path / "images", 4)
    (tmp_path / "images" / names[0]).rename(tmp_path / "images" / "a" / "\udcff.png")
    (tmp_path / "labels.csv").write_bytes(b"image,x\na/\xff.png,1\n" + "".join(f"{n},0\n" for n in names[1:]).encode())
    arguments = [
        "shard",
        "--images",
        str(tmp_path / "images"),
        "--labels",
        str(tmp_path / "labels.csv"),
        "--workers",
        "1",
    ]
    assert matl_data([*arguments, "--allow-unmatched", "--out", str(tmp_path / "set")]) == 2
    assert "labels.csv cannot be read" in capsys.readouterr().err
    table = pa.table({"image": ["x", *names[1:]], "y": [1, 0, 1, 0]})
    pq.write_table(table, tmp_path / "labels.parquet")
    arguments[4] = str(tmp_path / "labels.parquet")
    assert matl_data([*arguments, "--allow-unmatched", "--out", str(tmp_path / "set")]) == 0


def test_large_integers_stay_apart(tmp_path: Path) -> None:
    found = read(tmp_path, ["image,x", "a,12345678901234567890", "b,12345678901234567891", "c,3"])
    assert found.tasks[0].classes == ("3", "12345678901234567890", "12345678901234567891")
    table = pa.table({"image": ["a", "b", "c"], "x": pa.array([2, 2**64 - 1, 10], pa.uint64())})
    pq.write_table(table, tmp_path / "labels.parquet")
    found = read_labels(str(tmp_path / "labels.parquet"), ColumnRoles(), tmp_path)
    assert found.tasks[0].classes == ("2", "10", str(2**64 - 1))
    assert found.matrix[:, 0].tolist() == [0, 2, 1]


def test_correlated_classes_reach_every_split_too() -> None:
    for seed in range(10):
        generator = np.random.default_rng(seed)
        group = generator.integers(0, 12, 300)
        labels = np.stack([(group == i) & (generator.random(300) < 0.25) for i in range(12) for _ in range(3)], axis=1)
        tasks = [Task(name=str(i), classes=("no", "yes")) for i in range(36)]
        draw = Draw(fractions={"train": 0.8, "val": 0.1, "test": 0.1}, stratify=True, seed=seed)
        splits = draw_splits(labels.astype(np.int8), tasks, draw)
        for column in range(36):
            counts = np.bincount(splits[labels[:, column]], minlength=3)
            assert counts.sum() == 0 or counts[0] > 0
            assert counts.sum() < 3 or counts.min() > 0, (seed, column, counts)


def test_a_class_in_val_only_is_refused_over_two_calls(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split, kinds in (("val", "abc"), ("train", "aba")):
        names = write_images(tmp_path / split, 3)
        for name in names:
            target = tmp_path / f"{split}_images" / f"{split}{name}"
            target.parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / split / name).rename(target)
        rows = [f"{split}{name},{kind}" for name, kind in zip(names, kinds, strict=True)]
        (tmp_path / f"{split}.csv").write_text("\n".join(["image,kind", *rows]))
        arguments = ["shard", "--images", str(tmp_path / f"{split}_images"), "--labels", str(tmp_path / f"{split}.csv")]
        code = matl_data([*arguments, "--split", split, "--out", str(tmp_path / "set"), "--workers", "1"])
        assert code == (0 if split == "val" else 2)
    assert "class `c` of task `kind` in val" in capsys.readouterr().err


def test_no_image_starts_a_program() -> None:
    with pytest.raises(BadImage, match="it is no image of a known kind"):
        check_image(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")
