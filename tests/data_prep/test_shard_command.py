"""`matl-data shard`: what it writes, read back by the manifest and by webdataset alone."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset as wds
from PIL import Image

from helpers.commands import matl_data, shard_arguments
from helpers.sources_on_disk import contents
from matl_scale.data.shards.manifest import read_manifest
from matl_scale.storage.locks import lock_folder

LABELS = """image,smiling,hair,age,part
a.png,1,black,30,train
sub/b.jpg,0,blond,40,train
c.png,,,30,val
d.png,0,black,40,val
e.png,1,blond,,test
"""


def write_images(folder: Path) -> dict[str, bytes]:
    generator = np.random.default_rng(0)
    written = {}
    for name in ("a.png", "sub/b.jpg", "c.png", "d.png", "e.png"):
        buffer = io.BytesIO()
        pixels = generator.integers(0, 256, (12, 10, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(buffer, "JPEG" if name.endswith("jpg") else "PNG")
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(buffer.getvalue())
        written[name] = buffer.getvalue()
    return written


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_images(tmp_path / "images")
    (tmp_path / "labels.csv").write_text(LABELS)
    return tmp_path


def shard(source: Path, out: str, *options: str, labels: str = "labels.csv", images: str = "images") -> int:
    return matl_data(shard_arguments(source, source / out, *options, images=images, labels=labels))


def test_bytes_labels_and_splits_survive(source: Path) -> None:
    assert shard(source, "set", "--split-column", "part") == 0
    manifest = read_manifest(source / "set")
    assert manifest.splits == {"train": 2, "val": 2, "test": 1}
    assert [(task.name, task.classes) for task in manifest.tasks] == [
        ("smiling", ("0", "1")),
        ("hair", ("black", "blond")),
        ("age", ("30", "40")),
    ]
    labels = dict(zip(manifest.samples["path"].to_pylist(), manifest.labels().tolist(), strict=True))
    assert labels == {
        "a.png": [1, 0, 0],
        "sub/b.jpg": [0, 1, 1],
        "c.png": [-1, -1, 0],
        "d.png": [0, 0, 1],
        "e.png": [1, 1, -1],
    }
    for sample in manifest.samples.to_pylist():
        tar = source / "set" / manifest.shards["file"][sample["shard"]].as_py()
        stored = tar.read_bytes()[sample["offset"] : sample["offset"] + sample["size"]]
        assert stored == (source / "images" / sample["path"]).read_bytes()
        assert (sample["width"], sample["height"]) == (10, 12)


# webdataset leaves its files to the garbage collector
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_webdataset_alone_reads_the_tars(source: Path) -> None:
    shard(source, "set")
    manifest = read_manifest(source / "set")
    rows = {row["key"]: i for i, row in enumerate(manifest.samples.to_pylist())}
    labels = manifest.labels()
    urls = [str(source / "set" / name) for name in manifest.shards["file"].to_pylist()]
    seen = 0
    for sample in wds.WebDataset(urls, shardshuffle=False).decode("rgb8"):
        row = rows[sample["__key__"]]
        assert sample["npy"].tolist() == labels[row].tolist()
        extension = manifest.samples["extension"][row].as_py()
        assert sample[extension].shape == (12, 10, 3)
        seen += 1
    assert seen == 5


def test_same_input_same_bytes(source: Path) -> None:
    for out in ("one", "two"):
        assert shard(source, out, "--split-fractions", "train=0.6,val=0.4", "--seed", "7", "--tasks", "smiling") == 0
    assert contents(source / "one") == contents(source / "two")
    for tar in (source / "one").glob("*.tar"):
        with tarfile.open(tar) as content:
            assert all((member.mtime, member.uid, member.uname) == (0, 0, "") for member in content)


def test_fractions_are_seeded_and_exact(source: Path) -> None:
    (source / "labels.csv").write_text("image,x\na.png,1\nsub/b.jpg,\nc.png,\nd.png,\ne.png,0\n")
    for out, seed in (("one", "1"), ("two", "2")):
        assert shard(source, out, "--split-fractions", "train=0.6,test=0.4", "--stratify", "--seed", seed) == 0
    one, two = (read_manifest(source / name) for name in ("one", "two"))
    assert one.splits == two.splits == {"train": 3, "test": 2}
    assert one.samples["path"].to_pylist() != two.samples["path"].to_pylist()


def test_separate_calls_make_one_set(source: Path) -> None:
    rows = LABELS.splitlines()
    header = rows[0].rpartition(",")[0]
    for split in ("train", "val"):
        lines = [row.rpartition(",")[0] for row in rows[1:] if row.endswith(("train", "test")) == (split == "train")]
        (source / f"{split}.csv").write_text("\n".join([header, *lines]))
    assert shard(source, "set", "--split", "train", "--allow-unmatched", labels="train.csv") == 0
    first = read_manifest(source / "set")
    assert shard(source, "set", "--split", "val", "--allow-unmatched", labels="val.csv") == 0
    both = read_manifest(source / "set")
    assert both.splits == {"train": 3, "val": 2}
    assert both.tasks == first.tasks
    assert both.id != first.id
    assert len(set(both.samples["key"].to_pylist())) == 5
    labels = dict(zip(both.samples["path"].to_pylist(), both.labels().tolist(), strict=True))
    assert labels["c.png"] == [-1, -1, 0]
    assert read_manifest(source / "set", "1").id == first.id
    assert read_manifest(source / "set", first.id[:8]).splits == {"train": 3}


def test_parquet_images_and_labels(source: Path) -> None:
    images = write_images(source / "images")
    table = pa.table({"name": list(images), "image": list(images.values())})
    pq.write_table(table, source / "images.parquet")
    labels = pa.table(
        {"file": list(images), "flag": [True, False, None, True, False], "kind": [1.0, 2.0, None, 1.0, 2.0]}
    )
    pq.write_table(labels, source / "labels.parquet")
    assert shard(source, "set", "--image-column", "file", labels="labels.parquet", images="images.parquet") == 0
    manifest = read_manifest(source / "set")
    assert [(task.name, task.classes) for task in manifest.tasks] == [("flag", ("false", "true")), ("kind", ("1", "2"))]
    assert manifest.labels().tolist() == [[1, 0], [0, 1], [-1, -1], [1, 0], [0, 1]]


def test_resize_makes_squares(source: Path) -> None:
    assert shard(source, "set", "--resize", "8") == 0
    manifest = read_manifest(source / "set")
    assert manifest.image_size() == 8
    assert set(manifest.samples["extension"].to_pylist()) == {"jpg", "png"}


def test_small_shards_are_closed_when_full(source: Path) -> None:
    assert shard(source, "set", "--shard-mb", "0.001") == 0
    manifest = read_manifest(source / "set")
    assert manifest.shards["samples"].to_pylist() == [1] * 5
    assert manifest.samples["shard"].to_pylist() == list(range(5))


def test_label_names_without_extension_match(source: Path) -> None:
    (source / "labels.csv").write_text("image,x\na,1\nsub/b,0\nc,1\nd,0\ne,1\n")
    assert shard(source, "set") == 0
    assert read_manifest(source / "set").labels()[:, 0].tolist() == [1, 1, 0, 1, 0]


def test_chosen_columns_become_tasks(source: Path) -> None:
    assert shard(source, "set", "--tasks", "smil*", "age") == 0
    assert read_manifest(source / "set").task_names == ["smiling", "age"]


def test_empty_strings_in_parquet_are_missing_too(source: Path) -> None:
    names = ["a.png", "sub/b.jpg", "c.png", "d.png", "e.png"]
    pq.write_table(pa.table({"image": names, "x": ["cat", "", "dog", None, "cat"]}), source / "labels.parquet")
    assert shard(source, "set", labels="labels.parquet") == 0
    manifest = read_manifest(source / "set")
    assert manifest.tasks[0].classes == ("cat", "dog")
    labels = dict(zip(manifest.samples["path"].to_pylist(), manifest.labels()[:, 0].tolist(), strict=True))
    assert [labels[name] for name in names] == [0, -1, 1, -1, 0]


def test_names_with_brackets_are_shown_as_they_are(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (source / "labels.csv").write_text(LABELS.replace("smiling", "type[/x]").replace("hair", "color[red]"))
    shard(source, "set", "--split-column", "part")
    assert matl_data(["info", str(source / "set")]) == 0
    out = capsys.readouterr().out
    assert "type[/x]" in out
    assert "color[red]" in out


BAD_LABELS = {
    "single class": (
        "image,x,y\na.png,1,0\nsub/b.jpg,1,1\nc.png,1,0\nd.png,1,1\ne.png,1,0\n",
        "column `x`",
        "only '1'",
    ),
    "empty column": ("image,x\na.png,\nsub/b.jpg,\nc.png,\nd.png,\ne.png,\n", "left out `x`", "no values"),
    "fractions": ("image,x\na.png,0.5\nsub/b.jpg,1\nc.png,1\nd.png,0\ne.png,0\n", "column `x`", "fractions"),
    "duplicate row": ("image,x\na.png,1\na.png,0\nsub/b.jpg,1\nc.png,1\nd.png,0\ne.png,1\n", "a.png", "more than once"),
    "no image column": ("picture,x\na.png,1\n", "no column `image`", "picture"),
    "image without row": ("image,x\na.png,1\nsub/b.jpg,0\nc.png,1\n", "2 images have no label row (d.png, e.png)", ""),
    "row without image": (
        "image,x\na.png,1\nsub/b.jpg,0\nc.png,1\nd.png,1\ne.png,1\nf.png,0\n",
        "1 label rows have no image (f.png)",
        "--allow-unmatched",
    ),
    "ragged": ("image,x\na.png,1,7\n", "labels.csv cannot be read", ""),
    "only images": ("image\na.png\n", "no label column", ""),
}


@pytest.mark.parametrize("case", BAD_LABELS)
def test_bad_labels_are_one_line_and_leave_nothing(source: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    text, *expected = BAD_LABELS[case]
    (source / "labels.csv").write_text(text)
    check_refused(source, capsys, *expected)


def check_refused(
    source: Path, capsys: pytest.CaptureFixture[str], *expected: str, options: tuple[str, ...] = ()
) -> None:
    assert shard(source, "set", *options) == 2
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if "images/s" not in line and not line.startswith("positive classes")]
    assert len(lines) == 1
    assert lines[0].startswith("matl-data: error: ")
    assert all(part in lines[0] for part in expected), lines[0]
    assert not (source / "set").exists()


def test_allow_unmatched_leaves_them_out(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (source / "labels.csv").write_text("image,x\na.png,1\nsub/b.jpg,0\nzzz.png,0\n")
    assert shard(source, "set", "--allow-unmatched") == 0
    assert read_manifest(source / "set").samples["path"].to_pylist() == ["a.png", "sub/b.jpg"]
    said = capsys.readouterr().err
    assert "3 images have no label row (c.png, d.png, e.png)" in said
    assert "1 label rows have no image (zzz.png)" in said


@pytest.mark.parametrize("content", [b"", b"not an image", "truncated"])
def test_undecodable_image_is_named(source: Path, capsys: pytest.CaptureFixture[str], content: bytes | str) -> None:
    path = source / "images" / "c.png"
    path.write_bytes(path.read_bytes()[:150] if isinstance(content, str) else content)
    check_refused(source, capsys, f"1 image cannot be used: {path}: it ", "--skip-bad")


@pytest.mark.parametrize("mode", ["I;16", "F"])
def test_images_that_training_would_clip_are_refused(
    source: Path, capsys: pytest.CaptureFixture[str], mode: str
) -> None:
    path = source / "images" / "c.png"
    Image.new(mode, (8, 8)).save(path, "TIFF")
    check_refused(source, capsys, str(path), "8 bits per channel")


def test_two_writers_on_one_folder(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (source / "set/.work").mkdir(parents=True)
    with lock_folder(source / "set/.work"):
        assert shard(source, "set") == 2
    assert "is in use by process" in capsys.readouterr().err
    assert shard(source, "set") == 0


def test_broken_parquet_is_named(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (source / "images.parquet").write_bytes(b"PAR1 nothing")
    assert shard(source, "set", images="images.parquet") == 2
    assert "images.parquet cannot be read as Parquet" in capsys.readouterr().err


def test_duplicate_image_names_in_parquet(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = (source / "images" / "a.png").read_bytes()
    pq.write_table(pa.table({"name": ["a.png", "a.png"], "image": [image, image]}), source / "images.parquet")
    assert shard(source, "set", images="images.parquet") == 2
    assert "a.png" in capsys.readouterr().err
    assert not (source / "set").exists()


def test_damage_inside_a_parquet_file_is_blamed_on_that_file(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, names = source / "images.parquet", ["a.png", "sub/b.jpg", "c.png", "d.png", "e.png"]
    images = [(source / "images" / name).read_bytes() for name in names]
    pq.write_table(pa.table({"name": names, "image": images}), path, use_dictionary=False)
    start = pq.ParquetFile(path).metadata.row_group(0).column(1).data_page_offset
    with path.open("r+b") as file:
        file.seek(start)
        file.write(b"\xff" * 16)
    assert shard(source, "set", images="images.parquet") == 2
    assert f"{path} cannot be read as Parquet" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options", [("--split-fractions", "train=0.9"), ("--split-fractions", "x"), ("--split", "a/b")]
)
def test_bad_splits(source: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...]) -> None:
    check_refused(source, capsys, options=options)


def test_output_folder_that_is_not_empty_is_left_alone(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (source / "set").mkdir()
    (source / "set" / "precious.txt").write_text("mine")
    assert shard(source, "set") == 2
    assert "not empty" in capsys.readouterr().err
    assert [path.name for path in (source / "set").iterdir()] == ["precious.txt"]


def test_a_complete_set_stays_as_it_is(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shard(source, "set")
    before = contents(source / "set")
    assert shard(source, "set") == 0  # the same call again
    assert "nothing to do" in capsys.readouterr().err
    assert shard(source, "set", "--resize", "8") == 2
    assert "already has the split train" in capsys.readouterr().err
    assert shard(source, "set", "--split", "val") == 2
    assert "has 5 images of these names already" in capsys.readouterr().err
    assert contents(source / "set") == before


def test_a_complete_set_says_that_bad_images_stay_out(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (40, 40)).save(source / "images/e.png")
    options = ("--skip-bad", "--max-pixels")
    assert shard(source, "set", *options, "1000") == 0
    assert shard(source, "set", *options, "2000") == 0
    said = capsys.readouterr().err.splitlines()[-1]
    assert "nothing to do" in said
    assert said.endswith("stay out: " + str(source / "set/skipped.csv") + " lists them")


def test_info_has_one_line_per_task(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shard(source, "set", "--split-column", "part")
    capsys.readouterr()
    assert matl_data(["info", str(source / "set")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["smiling", "hair", "age"]
    assert "20.0%" in lines[1]  # missing
    assert any("train: 2 images in 1 shard" in line for line in lines)


@pytest.mark.parametrize("damage", ["manifest", "table", "size", "missing tar"])
def test_a_damaged_set_is_refused_by_name(source: Path, capsys: pytest.CaptureFixture[str], damage: str) -> None:
    shard(source, "set")
    root = source / "set"
    if damage == "manifest":
        (root / "manifest.json").write_text(json.dumps({"format": "something"}))
    elif damage == "table":
        path = root / "labels.v1.parquet"
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    else:
        tar = next(root.glob("*.tar"))
        tar.write_bytes(tar.read_bytes() + b"more") if damage == "size" else tar.unlink()
        with pytest.raises(ValueError, match=tar.name):
            read_manifest(root).check_shards("train")
        return
    assert matl_data(["info", str(root)]) == 2
    assert "set" in capsys.readouterr().err
