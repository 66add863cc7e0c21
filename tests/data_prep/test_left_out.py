"""Images that cannot be used, and copies: all are named, left out on request, and never left out by accident."""

import os
from pathlib import Path

import pytest

from helpers.commands import matl_data, shard_arguments
from helpers.sources_on_disk import write_images, write_labels
from matl_scale.data.shards.manifest import read_manifest
from matl_scale.storage.store import Store

COUNT = 120
ONE_SHARD = ("--workers", "1")
SMALL_SHARDS = ("--shard-mb", "0.02", *ONE_SHARD)


def test_bad_images_are_all_named_and_good_shards_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = write_images(tmp_path / "images", COUNT)
    write_labels(tmp_path / "labels.csv", names)
    whole = {name: (tmp_path / "images" / name).read_bytes() for name in (names[5], names[60])}
    (tmp_path / "images" / names[5]).write_bytes(b"")
    (tmp_path / "images" / names[60]).write_bytes(whole[names[60]][:-20])
    out = tmp_path / "set"
    assert matl_data(shard_arguments(tmp_path, out, *SMALL_SHARDS)) == 2
    error = capsys.readouterr().err
    assert "2 images cannot be used" in error
    assert all(f"images/{name}: it" in error for name in whole)
    kept = len(list(out.glob("*.tar")))
    assert kept > 5
    assert not (out / "manifest.json").exists()
    for name, data in whole.items():
        (tmp_path / "images" / name).write_bytes(data)
    assert matl_data(shard_arguments(tmp_path, out, *SMALL_SHARDS)) == 0
    assert f"{kept} of {kept + 2} shards were finished already" in capsys.readouterr().err
    assert read_manifest(out).num_samples == COUNT


def test_skip_bad_lists_what_it_leaves_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = write_images(tmp_path / "images", COUNT)
    write_labels(tmp_path / "labels.csv", names)
    for name in names[7:9]:
        (tmp_path / "images" / name).write_bytes(b"no image")
    out = tmp_path / "set"
    assert matl_data(shard_arguments(tmp_path, out, *SMALL_SHARDS, "--skip-bad")) == 0
    assert "left out 2 bad images" in capsys.readouterr().err
    lines = (out / "skipped.csv").read_text().splitlines()
    assert lines[0] == "image,reason"
    assert sorted(line.split(",")[0] for line in lines[1:]) == sorted(names[7:9])
    manifest = read_manifest(out)
    assert manifest.num_samples == COUNT - 2
    assert not set(names[7:9]) & set(manifest.samples["path"].to_pylist())
    assert matl_data(["verify", str(out), "--workers", "1"]) == 0


def test_copies_are_reported_or_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = write_images(tmp_path / "images", 20)
    (tmp_path / "images" / names[3]).write_bytes((tmp_path / "images" / names[12]).read_bytes())
    (tmp_path / "images" / names[4]).write_bytes((tmp_path / "images" / names[5]).read_bytes())
    splits = ["test" if i == 12 else "train" for i in range(20)]
    rows = [f"{name},{i % 2},{split}" for i, (name, split) in enumerate(zip(names, splits, strict=True))]
    (tmp_path / "labels.csv").write_text("\n".join(["image,x,part", *rows]))
    options = ["--split-column", "part", "--workers", "1"]
    assert matl_data(shard_arguments(tmp_path, tmp_path / "set", *options)) == 0
    assert "2 images are copies of another, 1 of one in another split" in capsys.readouterr().err
    assert f"{names[3]},train,{names[12]},test" in (tmp_path / "set/duplicates.csv").read_text()
    assert matl_data(["verify", "--quick", str(tmp_path / "set")]) == 2
    assert "1 image is in two splits" in capsys.readouterr().out
    assert matl_data(shard_arguments(tmp_path, tmp_path / "clean", *options, "--dedupe")) == 0
    assert "left out 2 copies" in capsys.readouterr().err
    paths = read_manifest(tmp_path / "clean").samples["path"].to_pylist()
    assert sorted(paths) == sorted(
        set(names) - {names[3], max(names[4], names[5])}
    )  # the test copy stays, then the first
    assert matl_data(["verify", str(tmp_path / "clean"), "--workers", "1"]) == 0


def test_an_image_that_cannot_be_read_now_is_not_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_labels(tmp_path / "labels.csv", write_images(tmp_path / "images", COUNT))
    arguments = shard_arguments(tmp_path, tmp_path / "set", *SMALL_SHARDS, "--skip-bad")
    opened = os.open

    def failing(path: str, flags: int, *others: object, **named: object) -> int:
        if str(path).endswith("0077.png"):
            raise OSError(24, "Too many open files")
        return opened(path, flags, *others, **named)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", failing)
        assert matl_data(arguments) == 2
    assert "0077.png cannot be read: Too many open files" in capsys.readouterr().err
    assert matl_data(arguments) == 0
    assert read_manifest(tmp_path / "set").num_samples == COUNT


def test_pipes_and_loops_in_a_folder(tmp_path: Path) -> None:
    names = write_images(tmp_path / "images", 6)
    write_labels(tmp_path / "labels.csv", names, missing=0)
    os.mkfifo(tmp_path / "images/a/pipe.png")
    (tmp_path / "images/b/loop").symlink_to(tmp_path / "images")
    assert matl_data(shard_arguments(tmp_path, tmp_path / "set", "--workers", "1", "--tasks", "t0")) == 0
    assert sorted(read_manifest(tmp_path / "set").samples["path"].to_pylist()) == sorted(names)


def test_resized_copies_are_left_out_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split in ("train", "val"):
        names = write_images(tmp_path / split, 6, prefix=f"{split}_")
        (tmp_path / f"{split}.csv").write_text("\n".join(["image,x", *(f"{n},{i % 2}" for i, n in enumerate(names))]))
    for split, code in (("train", 0), ("val", 2)):
        options = ["--split", split, "--resize", "4", "--workers", "1", "--dedupe"]
        arguments = shard_arguments(tmp_path, tmp_path / "set", *options, images=split, labels=f"{split}.csv")
        assert matl_data(arguments) == code
    assert "left out 6 copies" in capsys.readouterr().err
    assert read_manifest(tmp_path / "set").splits == {"train": 6}


def test_a_set_of_bad_images_only_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = write_images(tmp_path / "images", 4)
    (tmp_path / "labels.csv").write_text("\n".join(["image,x", *(f"{name},{i % 2}" for i, name in enumerate(names))]))
    for name in names:
        (tmp_path / "images" / name).write_bytes(b"no image")
    assert matl_data(shard_arguments(tmp_path, tmp_path / "set", "--workers", "1", "--skip-bad")) == 2
    assert "would hold no image" in capsys.readouterr().err
    assert not (tmp_path / "set/manifest.json").exists()


def test_a_list_of_copies_goes_with_the_plan_that_dropped_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A call that left out copies fails; the next one keeps them, and says nothing of copies that were left out."""
    names = write_images(tmp_path / "images", 20)
    write_labels(tmp_path / "labels.csv", names)
    (tmp_path / "images" / names[3]).write_bytes((tmp_path / "images" / names[12]).read_bytes())
    whole = (tmp_path / "images" / names[5]).read_bytes()
    (tmp_path / "images" / names[5]).write_bytes(b"no image")
    out = "memory://copies"
    assert matl_data(shard_arguments(tmp_path, out, *ONE_SHARD, "--dedupe")) == 2
    (tmp_path / "images" / names[5]).write_bytes(whole)
    assert matl_data(shard_arguments(tmp_path, out, *ONE_SHARD)) == 0
    assert read_manifest(out).num_samples == 20
    assert not Store(out).exists("dropped.csv")
    assert "left out" not in capsys.readouterr().err.splitlines()[-1]


def test_options_that_name_columns_add_up(tmp_path: Path) -> None:
    names = write_images(tmp_path / "images", 10)
    rows = [f"{name},{i % 2},{i / 7},word {i}" for i, name in enumerate(names)]
    (tmp_path / "labels.csv").write_text("\n".join(["image,x,price,comment", *rows]))
    options = (*SMALL_SHARDS, "--exclude", "price", "--exclude", "comment")
    assert matl_data(shard_arguments(tmp_path, tmp_path / "set", *options)) == 0
    assert read_manifest(tmp_path / "set").task_names == ["x"]


def test_a_single_column_that_is_no_task_is_told_with_the_remedy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = write_images(tmp_path / "images", 10)
    rows = [f"{name},{i % 2},{i / 7}" for i, name in enumerate(names)]
    (tmp_path / "labels.csv").write_text("\n".join(["image,x,the price", *rows]))
    assert matl_data(shard_arguments(tmp_path, tmp_path / "set", *SMALL_SHARDS)) == 2
    assert capsys.readouterr().err.endswith("To leave it out: --exclude 'the price'\n")


def test_a_version_that_was_taken_back_is_found_by_its_id(tmp_path: Path) -> None:
    names = write_images(tmp_path / "images", 10)
    write_labels(tmp_path / "labels.csv", names)
    assert matl_data(shard_arguments(tmp_path, tmp_path / "set", *SMALL_SHARDS)) == 0
    first = read_manifest(tmp_path / "set").id
    for change in ("t0=other", "other=t0"):
        assert matl_data(["tasks", "rename", str(tmp_path / "set"), change]) == 0
    assert read_manifest(tmp_path / "set", first[:12]).version == 3


def test_dev_stays_dev_beside_val(tmp_path: Path) -> None:
    for split in ("train", "val", "dev"):
        names = write_images(tmp_path / split, 12, prefix=split)
        write_labels(tmp_path / f"{split}.csv", names, missing=0)
        source = shard_arguments(
            tmp_path, tmp_path / "set", *SMALL_SHARDS, "--split", split, images=split, labels=f"{split}.csv"
        )
        assert matl_data(source) == 0
    assert list(read_manifest(tmp_path / "set").splits) == ["train", "val", "dev"]
