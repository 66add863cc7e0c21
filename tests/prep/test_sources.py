"""Known data sets: digits for real, the others on tiny files of the published layout."""

import gzip
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.__main__ import main
from data_prep.encode import encode_png
from data_prep.sources import cifar100, digits, fashion_mnist
from matl_scale.data.shards import InputError, read_manifest


def test_digits_are_175_tasks_that_agree_with_each_other() -> None:
    data = digits.build(seed=0)
    assert len(data.names) == 1797
    assert len(data.tasks) == 175
    names = [task.name for task in data.tasks]
    three, five, both = (data.labels[:, names.index(f"digit_in_{s}")] for s in ("3", "5", "3_5"))
    assert (both == (three | five)).all()
    assert {name: int((data.splits == name).sum()) for name in ("train", "val", "test")} == {
        "train": 1257,
        "val": 270,
        "test": 270,
    }
    for split in ("train", "val", "test"):
        shares = data.labels[data.splits == split][:, :10].mean(axis=0)
        assert (abs(shares - 0.1) < 0.02).all()


def write_idx(path: Path, values: np.ndarray, packed: bool) -> None:
    data = b"\x00\x00\x08" + bytes([values.ndim]) + np.array(values.shape, ">u4").tobytes() + values.tobytes()
    if packed:
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(data))
    else:
        path.write_bytes(data)


@pytest.mark.parametrize("layout", [".", "FashionMNIST/raw"])
@pytest.mark.parametrize("packed", [True, False])
def test_fashion_mnist_from_idx_files(tmp_path: Path, layout: str, packed: bool) -> None:
    generator = np.random.default_rng(0)
    folder = tmp_path / "root" / layout
    folder.mkdir(parents=True)
    for prefix, count in (("train", 40), ("t10k", 20)):
        classes = np.arange(count, dtype=np.uint8) % 10
        write_idx(
            folder / f"{prefix}-images-idx3-ubyte", generator.integers(0, 256, (count, 28, 28), dtype=np.uint8), packed
        )
        write_idx(folder / f"{prefix}-labels-idx1-ubyte", classes, packed)
    arguments = ["example", "fashion-mnist", "--root", str(tmp_path / "root"), "--out", str(tmp_path / "set")]
    assert main([*arguments, "--val-fraction", "0.25"]) == 0
    manifest = read_manifest(tmp_path / "set")
    assert manifest.splits == {"train": 30, "val": 10, "test": 20}
    assert len(manifest.tasks) == 10
    assert (manifest.labels().sum(axis=1) == 1).all()


def test_damaged_idx_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "train-images-idx3-ubyte").write_bytes(b"\x00\x00\x08\x03short")
    with pytest.raises(InputError, match="train-images-idx3-ubyte"):
        fashion_mnist.build(tmp_path, 0.1, 0)


def write_cifar(root: Path) -> None:
    fine = {"fish": ["ray", "shark"], "trees": ["oak", "palm"]}
    for part, count in (("train", 24), ("test", 8)):
        pairs = [(coarse, name) for coarse, names in fine.items() for name in names]
        rows = [pairs[i % 4] for i in range(count)]
        pixels = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        table = {
            "name": ["same.png"] * count,  # published names repeat
            "image": [encode_png(image) for image in pixels],
            "fine": [name for _, name in rows],
            "coarse": [coarse for coarse, _ in rows],
        }
        pq.write_table(pa.table(table), root / f"{part}.parquet")


def test_cifar_superclasses_are_missing_elsewhere(tmp_path: Path) -> None:
    write_cifar(tmp_path)
    data = cifar100.build(tmp_path, "superclass", val_fraction=0, seed=0)
    assert [(task.name, task.classes) for task in data.tasks] == [
        ("fish", ("ray", "shark")),
        ("trees", ("oak", "palm")),
    ]
    assert ((data.labels >= 0).sum(axis=1) == 1).all()
    assert data.labels[:4].tolist() == [[0, -1], [1, -1], [-1, 0], [-1, 1]]
    assert len(list(data.read_images())) == 32


def test_cifar_fine_is_one_vs_rest(tmp_path: Path) -> None:
    write_cifar(tmp_path)
    data = cifar100.build(tmp_path, "fine", val_fraction=0.25, seed=0)
    assert [task.name for task in data.tasks] == ["oak", "palm", "ray", "shark"]
    assert (data.labels.sum(axis=1) == 1).all()
    assert (data.splits == "val").sum() == 6
