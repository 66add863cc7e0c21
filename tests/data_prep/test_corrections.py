"""`matl-data tasks correct`: single labels, corrected by the list that `matl-report --suspects` writes."""

import csv
from collections.abc import Sequence
from pathlib import Path

import pytest

from helpers.commands import matl_data, shard_arguments
from helpers.sources_on_disk import contents, write_images
from matl_scale.data.shards.manifest import read_manifest

COUNT = 40


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """A set of 40 images in train and val, with a task of two classes, one of three, and one of numbers."""
    names = write_images(tmp_path / "images", COUNT)
    lines = [f"{name},{['no', 'yes'][i % 2]},{'xyz'[i % 3]},{i % 4}" for i, name in enumerate(names)]
    (tmp_path / "labels.csv").write_text("\n".join(["image,smiling,kind,number", *lines]) + "\n")
    options = ["--split-fractions", "train=0.7,val=0.3", "--stratify", "--workers", "1"]
    assert matl_data(shard_arguments(tmp_path, tmp_path / "set", *options)) == 0
    return tmp_path / "set"


def write_list(shards: Path, rows: Sequence[tuple[str, str, str]]) -> str:
    """Writes a list with the columns that matter, between others."""
    path = shards.parent / "list.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(
            [("rank", "task", "image", "given", "correct"), *((1, t, i, "?", c) for i, t, c in rows)]
        )
    return str(path)


def class_names(shards: Path) -> dict[tuple[str, str], str]:
    """Returns the name of the class of every image and task, empty if it has no label."""
    manifest = read_manifest(shards)
    labels, paths = manifest.labels(), manifest.samples["path"].to_pylist()
    return {
        (path, task.name): task.classes[labels[i, column]] if labels[i, column] >= 0 else ""
        for column, task in enumerate(manifest.tasks)
        for i, path in enumerate(paths)
    }


def test_only_what_the_list_corrects_changes(shards: Path) -> None:
    before, files = class_names(shards), contents(shards)
    names = sorted({path for path, _ in before})
    rows = [
        (names[0], "smiling", "yes"),
        (names[1], "smiling", ""),  # looked at, and left
        (names[1], "kind", "z"),
        (names[2], "kind", " NA "),  # removed
        (names[3].rpartition(".")[0], "number", "2.0"),  # as a spreadsheet spells it; the image without its ending
        (names[1], "kind", "z"),
    ]
    assert matl_data(["tasks", "correct", str(shards), "--list", write_list(shards, rows)]) == 0
    expected = {
        (names[0], "smiling"): "yes",
        (names[1], "kind"): "z",
        (names[2], "kind"): "",
        (names[3], "number"): "2",
    }
    assert class_names(shards) == before | expected
    manifest = read_manifest(shards)
    assert manifest.entries[-1]["change"] == "corrected 4 labels of 3 tasks: smiling, kind, number"
    after = contents(shards)
    assert all(after[name] == data for name, data in files.items() if name != "manifest.json")
    assert matl_data(["verify", str(shards), "--workers", "1"]) == 0


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("{0}", "smiling", "maybe"), "data row 1: `maybe` is no class of task `smiling`. It has: no, yes."),
        (("{0}", "smilling", "yes"), "data row 1: {set} has no task `smilling`. Did you mean `smiling`?"),
        (("nowhere.png", "smiling", "yes"), "corrects labels of 1 image missing in {set}: nowhere.png."),
        (("{0}", "smiling", ""), "corrects no label: column `correct` is empty."),
    ],
)
def test_what_cannot_be_used_is_refused(
    shards: Path, row: tuple[str, str, str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    first = min(path for path, _ in class_names(shards))
    image, task, correct = row
    assert (
        matl_data(
            ["tasks", "correct", str(shards), "--list", write_list(shards, [(image.format(first), task, correct)])]
        )
        == 2
    )
    assert message.format(set=shards) in capsys.readouterr().err
    assert read_manifest(shards).version == 1


def test_two_classes_for_one_label_are_refused(shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = min(path for path, _ in class_names(shards))
    file = write_list(shards, [(first, "kind", "x"), (first, "smiling", "no"), (first, "kind", "y")])
    assert matl_data(["tasks", "correct", str(shards), "--list", file]) == 2
    assert "Data row 3 has another class for task `kind`" in capsys.readouterr().err
