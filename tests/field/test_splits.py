"""Names of splits as people write them. Stands for reports such as "KeyError: train, my column says Train", "the
partition is 0, 1, 2", "the set was written, and nothing can train it".
"""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep.labels.split_names import usual_names
from data_prep.planning.splits import parse_fractions
from helpers.commands import matl_data, shard_arguments
from helpers.label_tables import read
from matl_scale.data.images.array_images import encode_png
from matl_scale.data.shards.manifest import read_manifest
from matl_scale.errors import InputError

READ_AS = {
    ("train", "val", "test"): ("train", "val", "test"),
    ("Train", "Val", "Test"): ("train", "val", "test"),
    ("TRAINING", "Validation", "testing"): ("train", "val", "test"),
    ("tr", "dev", "tst"): ("train", "val", "test"),
    (" train", "Train ", "valid"): ("train", "train", "val"),
    ("0", "1", "2"): ("train", "val", "test"),
    ("2", "0"): ("test", "train"),
    ("0", "1"): ("0", "1"),  # may say whether an image is for training, or for testing
    ("0", "1", "2", "3"): ("0", "1", "2", "3"),  # folds
    ("train", "val", "dev"): ("train", "val", "dev"),  # as some sets have them
    ("train", "training", "validation"): ("train", "train", "val"),
    ("0.0", "1.0", "2.0"): ("train", "val", "test"),  # as pandas writes numbers in a column with gaps
    ("Train", "fold_1"): ("train", "fold_1"),
}


@pytest.mark.parametrize("names", READ_AS)
def test_what_names_of_splits_are_read_as(names: tuple[str, ...]) -> None:
    assert tuple(usual_names(names)[name] for name in names) == READ_AS[names]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for i in range(6):
        (tmp_path / f"images/{i}.png").write_bytes(encode_png(np.full((4, 4), i, dtype=np.uint8)))
    return tmp_path


def write_column(source: Path, splits: list[str]) -> None:
    rows = [f"{i}.png,{i % 2},{split}" for i, split in enumerate(splits)]
    (source / "labels.csv").write_text("\n".join(["image,x,part", *rows]))


def shard(source: Path, *options: str) -> int:
    return matl_data(shard_arguments(source, source / "set", "--workers", "1", *options))


@pytest.mark.parametrize("words", [("Train", "Validation"), ("0", "2"), ("training ", "dev")])
def test_a_column_of_usual_words_makes_a_set_that_can_be_trained(
    source: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, str]
) -> None:
    write_column(source, [words[0]] * 4 + [words[1]] * 2)
    assert shard(source, "--split-column", "part") == 0
    assert read_manifest(source / "set").splits == {"train": 4, "test" if words[1] == "2" else "val": 2}
    assert f"column `part`: `{words[0]}` is read as train, `{words[1]}` is read as" in capsys.readouterr().err


def test_spellings_of_one_word_are_one_split(source: Path) -> None:
    write_column(source, ["train", "Train", "TRAIN", "train", "val", "Val"])
    assert shard(source, "--split-column", "part") == 0
    manifest = read_manifest(source / "set")
    assert manifest.splits == {"train": 4, "val": 2}
    assert manifest.samples["path"].to_pylist() == [f"{i}.png" for i in range(6)]


def test_a_name_that_no_split_can_have_is_refused_with_its_row(
    source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_column(source, ["train"] * 4 + ["hold-out"] * 2)
    assert shard(source, "--split-column", "part") == 2
    assert "column `part`, data row 5: A split name should be" in capsys.readouterr().err


@pytest.mark.parametrize("word", ["NA", "None", " ", " nan"])
def test_a_row_without_a_split_is_refused(source: Path, capsys: pytest.CaptureFixture[str], word: str) -> None:
    """A table merged from parts, of which one had no splits: a split called `NA` would be read by nobody."""
    write_column(source, ["train"] * 4 + [word, "val"])
    assert shard(source, "--split-column", "part") == 2
    assert f"a split in column `part`. Data row 5 has {word!r}, which means that" in capsys.readouterr().err


def test_a_set_without_train_says_so_when_it_is_written(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_column(source, ["fold_1"] * 4 + ["fold_2"] * 2)
    assert shard(source, "--split-column", "part") == 0
    said = capsys.readouterr().err
    assert "has no split `train`. It has: fold_1, fold_2. Training reads `train` and no other: write it with" in said
    with pytest.raises(InputError, match=r"Training reads `train`.*matl-data shard --split train"):
        read_manifest(source / "set").sample_ids("train")
    with pytest.raises(InputError, match=r"with `eval.split`"):
        read_manifest(source / "set").sample_ids("val")


def test_options_are_read_alike(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_column(source, ["unused"] * 6)
    assert shard(source, "--split", "Training", "--tasks", "x") == 0
    assert "--split: `Training` is read as train" in capsys.readouterr().err
    assert read_manifest(source / "set").splits == {"train": 6}
    assert parse_fractions("Train=0.8, validation=0.2") == {"train": 0.8, "val": 0.2}
    assert capsys.readouterr().err == "--split-fractions: `Train` is read as train, `validation` is read as val\n"


def test_two_spellings_of_one_split_in_the_fractions_are_refused() -> None:
    with pytest.raises(InputError, match="should name each split once"):
        parse_fractions("Train=0.5,train=0.5")


KAGGLE_ATTRIBUTES = """image_id,Bald,Smiling
000001.jpg,-1,1
000002.jpg,1,-1
000003.jpg,-1,1
000004.jpg,1,1
000005.jpg,-1,-1
"""


@pytest.fixture
def kaggle(tmp_path: Path) -> Path:
    """CelebA as Kaggle has it: CSV tables, and the images one folder deeper."""
    folder = tmp_path / "img_align_celeba/img_align_celeba"
    folder.mkdir(parents=True)
    for i in range(1, 6):
        Image.new("RGB", (10, 12), (40 * i, 0, 0)).save(folder / f"{i:06d}.jpg")
    (tmp_path / "list_attr_celeba.csv").write_text(KAGGLE_ATTRIBUTES)
    partition = "".join(f"{i:06d}.jpg,{max(i - 3, 0)}\n" for i in range(1, 6))
    (tmp_path / "list_eval_partition.csv").write_text(f"image_id,partition\n{partition}")
    return tmp_path


def test_celeba_as_kaggle_has_it(kaggle: Path) -> None:
    out = kaggle / "set"
    assert matl_data(["example", "celeba", "--root", str(kaggle), "--out", str(out), "--workers", "1"]) == 0
    manifest = read_manifest(out)
    assert manifest.splits == {"train": 3, "val": 1, "test": 1}
    assert [(task.name, task.classes) for task in manifest.tasks] == [
        ("Bald", ("no", "yes")),
        ("Smiling", ("no", "yes")),
    ]
    assert manifest.labels().tolist() == [[0, 1], [1, 0], [0, 1], [1, 1], [0, 0]]


@pytest.mark.parametrize("cut", ["image_id,Bald\n", "", KAGGLE_ATTRIBUTES[:-4], KAGGLE_ATTRIBUTES[:-17]])
def test_a_table_of_celeba_that_is_cut_off_is_named(kaggle: Path, capsys: pytest.CaptureFixture[str], cut: str) -> None:
    (kaggle / "list_attr_celeba.csv").write_text(cut)
    assert matl_data(["example", "celeba", "--root", str(kaggle), "--out", str(kaggle / "set")]) == 2
    assert "list_attr_celeba.csv should have" in capsys.readouterr().err


def test_the_column_and_folder_of_images_are_suggested(kaggle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = shard_arguments(kaggle, kaggle / "set", images="img_align_celeba", labels="list_attr_celeba.csv")
    assert matl_data(arguments) == 2
    assert "has no column `image`. It has: image_id, Bald, Smiling. " in (error := capsys.readouterr().err)
    assert "Use --image-column image_id, if images are named there." in error
    arguments += ["--image-column", "image_id"]
    assert matl_data(arguments) == 2
    assert f"Use --images {kaggle}/img_align_celeba/img_align_celeba." in capsys.readouterr().err
    arguments[arguments.index("--images") + 1] += "/img_align_celeba"
    assert matl_data(arguments) == 0
    assert read_manifest(kaggle / "set").labels().tolist() == [[0, 1], [1, 0], [0, 1], [1, 1], [0, 0]]


@pytest.mark.parametrize("cell", ["NA", "a b"])
def test_a_wrong_split_is_named_with_its_row_in_the_file_blank_rows_too(cell: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"(?i)data row 5"):
        read(tmp_path, f"image,x,s\n,,\na,1,train\n,,\nb,1,val\nc,0,{cell}\n,,\n", split="s")
