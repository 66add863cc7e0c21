"""Known data sets from tiny trees in their published layout: tasks, labels, missing ones, splits, and the images themselves."""

import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data_prep.dataset import Dataset
from data_prep.sources import celeba, cifar10, cifar100, cub, decathlon, digits, fashion_mnist, zappos
from helpers.commands import matl_data
from matl_scale.data.images.array_images import encode_png
from matl_scale.data.shards.manifest import read_manifest
from matl_scale.errors import InputError


def write_jpeg(path: Path, shade: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (10, 12), (shade, shade, shade)).save(path, "JPEG")


def content(dataset: Dataset) -> tuple[list[str], np.ndarray, list[str], list[int]]:
    """Returns names, labels, splits, and the brightness of each image."""
    chunks = list(dataset.chunks())
    shades = []
    for chunk in chunks:
        for data in dataset.images.read(chunk.names, chunk.indices):
            with Image.open(io.BytesIO(data)) as image:
                shades.append(round(float(np.asarray(image).mean())))
    names = [name for chunk in chunks for name in chunk.names]
    splits = [split for chunk in chunks for split in chunk.splits]
    return names, np.concatenate([chunk.labels for chunk in chunks]), splits, shades


def test_digits_are_175_tasks() -> None:
    data = digits.build(seed=0)
    assert len(data.tasks) == 175
    _, labels, splits, _ = content(data)
    assert [splits.count(name) for name in ("train", "val", "test")] == [1257, 270, 270]
    named = {task.name: labels[:, i] for i, task in enumerate(data.tasks)}
    for split in ("train", "val", "test"):
        shares = labels[np.array(splits) == split][:, :10].mean(axis=0)
        assert (abs(shares - 0.1) < 0.02).all()
    np.testing.assert_array_equal(
        named["digit_in_1_2_3"], named["digit_in_1"] | named["digit_in_2"] | named["digit_in_3"]
    )


def write_idx(path: Path, values: np.ndarray, packed: bool) -> None:
    data = b"\x00\x00\x08" + bytes([values.ndim]) + np.array(values.shape, ">u4").tobytes() + values.tobytes()
    if packed:
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(data))
    else:
        path.write_bytes(data)


@pytest.mark.parametrize("layout", [".", "FashionMNIST/raw"])
@pytest.mark.parametrize("packed", [True, False])
def test_fashion_mnist(tmp_path: Path, layout: str, packed: bool) -> None:
    folder = tmp_path / layout
    folder.mkdir(parents=True, exist_ok=True)
    for prefix, count in (("train", 40), ("t10k", 20)):
        pixels = np.random.default_rng(0).integers(0, 256, (count, 28, 28), dtype=np.uint8)
        write_idx(folder / f"{prefix}-images-idx3-ubyte", pixels, packed)
        write_idx(folder / f"{prefix}-labels-idx1-ubyte", np.arange(count, dtype=np.uint8) % 10, packed)
    command = ["example", "fashion-mnist", "--root", str(tmp_path), "--val-fraction", "0.25", "--workers", "1"]
    assert matl_data([*command, "--out", str(tmp_path / "set")]) == 0
    manifest = read_manifest(tmp_path / "set")
    assert manifest.splits == {"train": 30, "val": 10, "test": 20}
    assert len(manifest.tasks) == 10
    assert (manifest.labels().sum(axis=1) == 1).all()


def test_fashion_mnist_that_is_cut_off_is_named(tmp_path: Path) -> None:
    (tmp_path / "train-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03\0\0")
    with pytest.raises(InputError, match="train-images-idx3-ubyte"):
        fashion_mnist.build(tmp_path)


def write_cifar(root: Path) -> None:
    rows = [("ray", "fish"), ("shark", "fish"), ("oak", "trees"), ("palm", "trees")] * 6
    for part, count in (("train", 24), ("test", 8)):
        pixels = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        table = {
            "name": ["same.png"] * count,  # published names repeat
            "image": [encode_png(image) for image in pixels],
            "fine": [name for name, _ in rows[:count]],
            "coarse": [coarse for _, coarse in rows[:count]],
        }
        pq.write_table(pa.table(table), root / f"{part}.parquet")


def test_cifar100_superclasses_are_missing_elsewhere(tmp_path: Path) -> None:
    write_cifar(tmp_path)
    data = cifar100.build(tmp_path, "superclass")
    assert [(task.name, task.classes) for task in data.tasks] == [
        ("fish", ("ray", "shark")),
        ("trees", ("oak", "palm")),
    ]
    names, labels, splits, shades = content(data)
    assert ((labels >= 0).sum(axis=1) == 1).all()
    assert labels[:4].tolist() == [[0, -1], [1, -1], [-1, 0], [-1, 1]]
    assert len(set(names)) == len(shades) == 32
    assert splits == ["train"] * 24 + ["test"] * 8


def test_cifar100_fine_is_one_vs_rest(tmp_path: Path) -> None:
    write_cifar(tmp_path)
    data = cifar100.build(tmp_path, "fine")
    assert [task.name for task in data.tasks] == ["oak", "palm", "ray", "shark"]
    assert (content(data)[1].sum(axis=1) == 1).all()


def test_cifar10_binary(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for number, file in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        records = np.zeros((10, 3073), dtype=np.uint8)
        records[:, 0] = np.arange(10)
        records[:, 1:] = 10 * number
        records.tofile(folder / f"{file}.bin")
    data = cifar10.build(tmp_path)
    names, labels, splits, shades = content(data)
    assert labels[:10].tolist() == np.eye(10, dtype=int).tolist()
    assert splits == ["train"] * 50 + ["test"] * 10
    assert shades == [10 * number for number in range(6) for _ in range(10)]
    assert names[-1] == "cifar10/test_batch/00009.png"
    (folder / "data_batch_3.bin").write_bytes(b"\1" * 100)
    with pytest.raises(InputError, match=r"data_batch_3\.bin should hold records of 3073 bytes"):
        cifar10.build(tmp_path)


def write_celeba(root: Path) -> None:
    names = [f"{i:06d}.jpg" for i in range(1, 7)]
    (root / "Anno").mkdir(parents=True)
    (root / "Eval").mkdir()
    lines = ["6", "5_o_Clock_Shadow Smiling "]
    lines += [f"{name} {1 if i % 2 else -1:2d} {1 if i < 4 else -1:2d}" for i, name in enumerate(names)]
    (root / "Anno/list_attr_celeba.txt").write_text("\n".join(lines) + "\n")
    (root / "Eval/list_eval_partition.txt").write_text("".join(f"{name} {i // 2}\n" for i, name in enumerate(names)))
    for i, name in enumerate(names):
        write_jpeg(root / "Img/img_align_celeba" / name, 40 * i)


def test_celeba(tmp_path: Path) -> None:
    write_celeba(tmp_path)
    data = celeba.build(tmp_path)
    assert [task.name for task in data.tasks] == ["5_o_Clock_Shadow", "Smiling"]
    names, labels, splits, shades = content(data)
    assert names[0] == "000001.jpg"
    assert labels.tolist() == [[0, 1], [1, 1], [0, 1], [1, 1], [0, 0], [1, 0]]
    assert splits == ["train", "train", "val", "val", "test", "test"]
    assert shades == [0, 40, 80, 120, 160, 200]


def test_celeba_that_is_cut_off_is_named(tmp_path: Path) -> None:
    write_celeba(tmp_path)
    path = tmp_path / "Anno/list_attr_celeba.txt"
    path.write_text("\n".join(path.read_text().splitlines()[:-1]))
    with pytest.raises(InputError, match=r"list_attr_celeba.txt should have 6 images"):
        celeba.build(tmp_path)


def write_cub(root: Path) -> None:
    folder = root / "CUB_200_2011"
    (folder / "attributes").mkdir(parents=True)
    files = [f"00{i}.Bird/Bird_000{i}.jpg" for i in range(1, 5)]
    (folder / "images.txt").write_text("".join(f"{i} {name}\n" for i, name in enumerate(files, start=1)))
    (folder / "train_test_split.txt").write_text("1 1\n2 1\n3 0\n4 0\n")
    (root / "attributes.txt").write_text("1 has_bill_shape::curved\n2 has_wing_color::blue\n")
    lines = [
        "1 1 1 4 3.1",
        "1 2 0 3 2",
        "2 1 0 1 2",
        "2 2 1 3 0 1 7",
        "3 1 0 4 1",
        "3 2 1 2 1",
        "4 1 1 3 1",
        "4 2 0 4 1",
    ]
    (folder / "attributes/image_attribute_labels.txt").write_text("\n".join(lines) + "\n")
    for i, name in enumerate(files):
        write_jpeg(folder / "images" / name, 50 * i)


def test_cub_labels_that_were_guessed_are_missing(tmp_path: Path) -> None:
    write_cub(tmp_path)
    names, labels, splits, shades = content(cub.build(tmp_path, min_certainty=3))
    assert labels.tolist() == [[1, 0], [-1, 1], [0, -1], [1, 0]]
    assert splits == ["train", "train", "test", "test"]
    assert shades == [0, 50, 100, 150]
    assert names[0] == "001.Bird/Bird_0001.jpg"
    assert content(cub.build(tmp_path, min_certainty=1))[1].tolist() == [[1, 0], [0, 1], [0, 1], [1, 0]]
    assert [task.name for task in cub.build(tmp_path, 3).tasks] == ["has_bill_shape::curved", "has_wing_color::blue"]


def test_zappos(tmp_path: Path) -> None:
    (tmp_path / "ut-zap50k-data").mkdir()
    (tmp_path / "ut-zap50k-data/meta-data.csv").write_text(
        "CID,Category,Closure,Insole\n"
        "100627-72,Shoes,Lace up,\n100657-3,Boots,Zipper;Pull-on,\n100657-9,Boots,,Leather\n100700-1,Shoes,Zipper,\n"
    )
    folder = tmp_path / "ut-zap50k-images-square"
    for i, name in enumerate(
        ["Shoes/A/Nike/100627.72", "Boots/B/X Y/100657.3", "Boots/B/X Y/100657.9", "Shoes/A/Z/100700.1"]
    ):
        write_jpeg(folder / f"{name}.jpg", 60 * i)
    data = zappos.build(tmp_path)
    assert [(task.name, task.classes) for task in data.tasks] == [
        ("Category", ("Boots", "Shoes")),
        ("Closure.Lace up", ("no", "yes")),
        ("Closure.Pull-on", ("no", "yes")),
        ("Closure.Zipper", ("no", "yes")),
    ]
    names, labels, _, shades = content(data)
    assert labels.tolist() == [[1, 1, 0, 0], [0, 0, 1, 1], [0, -1, -1, -1], [1, 0, 0, 1]]
    assert names[1] == "Boots/B/X Y/100657.3.jpg"
    assert shades == [0, 60, 120, 180]
    (folder / "Boots/B/X Y/100657.9.jpg").unlink()
    with pytest.raises(InputError, match=r"lacks 1 of 4 images .* 100657.9.jpg"):
        zappos.build(tmp_path)


def write_decathlon(root: Path) -> None:
    annotations = root / "decathlon-1.0/annotations"
    annotations.mkdir(parents=True)
    for name, classes in (("dtd", ["banded", "dotted"]), ("svhn", ["1", "2", "3"])):
        for split in ("train", "val"):
            files = [f"{name}/{split}/000{i}/00{i}.jpg" for i in range(len(classes))]
            for i, file in enumerate(files):
                write_jpeg(root / "decathlon-1.0/data" / file, 40 * i)
            coco = {
                "images": [{"id": 100 + i, "file_name": f"data/{file}"} for i, file in enumerate(files)],
                "annotations": [{"id": i, "image_id": 100 + i, "category_id": 7 + i} for i in range(len(files))],
                "categories": [{"id": 7 + i, "name": label} for i, label in enumerate(classes)],
            }
            (annotations / f"{name}_{split}.json").write_text(json.dumps(coco))


def test_decathlon_tasks_have_their_own_images(tmp_path: Path) -> None:
    write_decathlon(tmp_path)
    data = decathlon.build(tmp_path)
    assert [(task.name, task.num_classes) for task in data.tasks] == [("dtd", 2), ("svhn", 3)]
    names, labels, splits, shades = content(data)
    assert labels.tolist() == [[0, -1], [1, -1], [0, -1], [1, -1], [-1, 0], [-1, 1], [-1, 2], [-1, 0], [-1, 1], [-1, 2]]
    assert splits == ["train"] * 2 + ["val"] * 2 + ["train"] * 3 + ["val"] * 3
    assert shades == [0, 40, 0, 40, 0, 40, 80, 0, 40, 80]
    assert names[0] == "dtd/train/0000/000.jpg"


def test_decathlon_files_cannot_leave_the_folder(tmp_path: Path) -> None:
    write_decathlon(tmp_path)
    path = tmp_path / "decathlon-1.0/annotations/dtd_val.json"
    path.write_text(path.read_text().replace("data/dtd/val", "data/../../etc"))
    with pytest.raises(InputError, match=r"dtd_val.json: file names should stay below"):
        decathlon.build(tmp_path)


@pytest.mark.parametrize("build", [celeba.build, zappos.build, decathlon.build, lambda root: cub.build(root, 3)])
def test_an_empty_folder_is_named(tmp_path: Path, build: Callable[[Path], Dataset]) -> None:
    with pytest.raises(InputError, match=str(tmp_path)):
        build(tmp_path)
