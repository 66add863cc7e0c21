"""Predictions of many photos on machines where something goes wrong: odd names, interruptions, files that cannot be read."""

import errno
import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from helpers.commands import matl_data, shard_arguments
from helpers.decision_rules import forget_decisions, give_decisions
from helpers.run_configs import build_config
from helpers.shard_sets import ShardSet
from matl_scale.commands.predict import main
from matl_scale.data.images.folder_images import FolderImages
from matl_scale.deploy import predict as module
from matl_scale.train.process_group import build_accelerator
from matl_scale.train.run import train
from matl_scale.train.step.train_step import TrainConfig

BAD_NAME = os.fsdecode(b"caf\xe9.png")  # Latin-1, from an old archive
NUM_IMAGES, BATCH, PART = 11, 2, 4


@pytest.fixture(scope="module")
def run(small_set: ShardSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = build_config(
        tmp_path_factory.mktemp("runs"), small_set, "run", train=TrainConfig(steps=1, precision="fp32")
    )
    train(config, build_accelerator("fp32"))
    return config.run.folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of photos, one of which is damaged and one empty."""
    generator = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for i in range(NUM_IMAGES):
        pixels = generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"photos/{i:02d}.png")
    (tmp_path / "photos/01.png").write_bytes(b"no image at all")
    (tmp_path / "photos/09.png").write_bytes(b"")
    return tmp_path / "photos"


def call(run: Path, images: Path, out: Path, *arguments: str) -> int:
    """Runs `matl-predict` with small batches and returns the exit code that the shell would see."""
    given = ["--run", run, "--images", images, "--out", out, "--checkpoint", "newest", "--workers", "0"]
    try:
        return main([*map(str, given), "--batch-size", str(BATCH), *arguments])
    except SystemExit as end:
        return int(end.code or 0)


def names_in(out: Path) -> list[str]:
    """Returns the images of a table of predictions, in order."""
    return list(dict.fromkeys(pq.read_table(out)["image"].to_pylist()))


def answers_for(out: Path, image: str) -> list[float]:
    """Returns the probabilities that a table has for an image and the task of five classes."""
    rows = [row for row in pq.read_table(out).to_pylist() if (row["image"], row["task"]) == (image, "task_4")]
    assert len(rows) == 1
    return list(rows[0]["probabilities"])


class Interruption:
    """Interrupts the work after some batches, as Ctrl-C does, and counts the batches that were computed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.after, self.done, self._original = NUM_IMAGES, 0, module.predict_batches
        monkeypatch.setattr(module, "PART_IMAGES", PART)
        monkeypatch.setattr(module, "predict_batches", self._predict)

    def _predict(self, *arguments: Any) -> Iterator[Any]:
        for batch in self._original(*arguments):
            if self.done == self.after:
                raise KeyboardInterrupt
            self.done += 1
            yield batch


def test_one_name_that_is_not_utf_8_does_not_cost_the_others(run: Path, photos: Path, tmp_path: Path) -> None:
    """Reports: `UnicodeEncodeError: surrogates not allowed` when the table of 40,000 answers was written."""
    (photos / "00.png").rename(photos / BAD_NAME)
    (photos / "broken\udcff.png").write_bytes(b"x")
    out = tmp_path / "out.parquet"
    assert call(run, photos, out) == 1  # three are damaged
    assert r"caf\xe9.png" in names_in(out)
    assert len(names_in(out)) == NUM_IMAGES - 2
    listed = out.with_name("out.parquet.skipped.csv").read_text(encoding="utf-8").splitlines()
    assert listed[-1].startswith("broken\\xff.png,")
    (photos / BAD_NAME).rename(photos / "00.png")
    for path in list(photos.iterdir()):
        if path.name not in ("00.png", "02.png"):
            path.unlink()
    assert call(run, photos, tmp_path / "good.parquet") == 0
    assert answers_for(out, r"caf\xe9.png") == pytest.approx(answers_for(tmp_path / "good.parquet", "00.png"), abs=1e-6)


def test_members_of_tars_too(run: Path, photos: Path, tmp_path: Path) -> None:
    """A tar that was written on a machine with another encoding."""
    data = (photos / "00.png").read_bytes()
    with tarfile.open(tmp_path / "old.tar", "w") as tar:
        for name in (BAD_NAME, "a.png"):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    assert call(run, tmp_path / "old.tar", tmp_path / "out.parquet") == 0
    assert names_in(tmp_path / "out.parquet") == [r"old.tar/caf\xe9.png", "old.tar/a.png"]


def test_a_shard_set_refuses_such_a_name_before_it_writes(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its tables and label files hold text, by which images are found again."""
    (photos / "00.png").rename(photos / BAD_NAME)
    (tmp_path / "labels.csv").write_text("image,x\n01.png,0\n02.png,1\n")
    arguments = shard_arguments(tmp_path, tmp_path / "set", images="photos")
    assert matl_data(arguments) == 2
    error = capsys.readouterr().err
    assert r"caf\xe9.png" in error
    assert error.isascii()
    assert not (tmp_path / "set/manifest.json").exists()


def test_an_interrupted_call_goes_on_and_gives_the_same_bytes(
    run: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Reports: hours of answers lost to Ctrl-C, a time limit or a full disk, under a line that says they are kept."""
    interruption = Interruption(monkeypatch)
    whole, out = tmp_path / "whole.parquet", tmp_path / "out.parquet"
    assert call(run, photos, whole) == 1
    assert interruption.done == 6
    for after, done in ((5, 5), (1, 1)):  # after the first part and a bit; then after the rest of the second
        interruption.after, interruption.done = after, 0
        assert call(run, photos, out) == 130
        assert interruption.done == done
        assert not out.exists()
    assert "interrupted; run the same command again to go on" in capsys.readouterr().err
    assert len(list((tmp_path / ".out.parquet.parts").glob("part-*"))) == 2
    interruption.after, interruption.done = NUM_IMAGES, 0
    assert call(run, photos, out) == 1
    assert interruption.done == 2  # of the third part
    assert "8 of 11 images were finished already" in capsys.readouterr().err
    assert out.read_bytes() == whole.read_bytes()
    lists = [path.with_name(f"{path.name}.skipped.csv").read_text() for path in (out, whole)]
    assert lists[0] == lists[1]
    assert [line.split(",")[0] for line in lists[0].splitlines()] == ["image", "01.png", "09.png"]
    assert sorted(path.name for path in tmp_path.iterdir() if "part" in path.name) == []


def test_workers_go_on_in_the_same_order(
    run: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interruption = Interruption(monkeypatch)
    assert call(run, photos, tmp_path / "whole.parquet") == 1
    interruption.after, interruption.done = 3, 0
    assert call(run, photos, tmp_path / "out.parquet", "--workers", "2") == 130
    interruption.after, interruption.done = NUM_IMAGES, 0
    assert call(run, photos, tmp_path / "out.parquet", "--workers", "2") == 1
    assert interruption.done == 4
    assert (tmp_path / "out.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--tasks", "task_2"], "--tasks"),
        (["--batch-size", "3"], "--batch-size"),
        (["--max-pixels", "9999"], "--max-pixels"),
    ],
)
def test_another_call_does_not_mix_with_what_is_kept(
    run: Path,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    named: str,
) -> None:
    interruption, out = Interruption(monkeypatch), tmp_path / "out.parquet"
    interruption.after = 2
    assert call(run, photos, out) == 130
    assert call(run, photos, out, *arguments) == 2
    error = capsys.readouterr().err
    assert f"was begun by a call with other values of: {named}. Its finished parts are kept in" in error
    (photos / "new.png").write_bytes(b"")
    assert call(run, photos, out) == 2
    assert "other values of: names of the images." in capsys.readouterr().err


def test_new_decisions_do_not_mix_with_what_is_kept(
    run: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Decisions are fitted again (`matl-decide`) between an interrupted call and its repetition."""
    (network,) = (run / "checkpoints").glob("step-*")
    interruption, out = Interruption(monkeypatch), tmp_path / "out.parquet"
    interruption.after = 2
    try:
        give_decisions(network, seed=1)
        assert call(run, photos, out) == 130
        give_decisions(network, seed=2)
        assert call(run, photos, out) == 2
        assert "begun by a call with other values of: decisions (matl-decide). Its" in capsys.readouterr().err
        give_decisions(network, seed=1)
        interruption.after, interruption.done = NUM_IMAGES, 0
        assert call(run, photos, out) == 1
    finally:
        forget_decisions(network)


def test_a_call_without_a_finished_part_leaves_nothing(
    run: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interruption = Interruption(monkeypatch)
    interruption.after = 1
    before = sorted(tmp_path.iterdir())
    assert call(run, photos, tmp_path / "out.parquet") == 130
    assert sorted(tmp_path.iterdir()) == before
    interruption.after, interruption.done = NUM_IMAGES, 0
    assert call(run, photos, tmp_path / "out.parquet", "--tasks", "task_2") == 1


def test_what_a_killed_call_has_left_does_not_count(
    run: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kill -9 and a power cut leave half a part under its temporary name."""
    interruption = Interruption(monkeypatch)
    assert call(run, photos, tmp_path / "whole.parquet") == 1
    interruption.after, interruption.done = 2, 0
    assert call(run, photos, tmp_path / "out.parquet") == 130
    for name in (".partial-part", ".partial-part-000001.parquet"):
        (tmp_path / ".out.parquet.parts" / name).write_bytes(b"PAR1 half")
    interruption.after = NUM_IMAGES
    assert call(run, photos, tmp_path / "out.parquet") == 1
    assert (tmp_path / "out.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert not (tmp_path / ".out.parquet.parts").exists()


def test_reasons_are_the_same_in_every_call(run: Path, photos: Path, tmp_path: Path) -> None:
    """Reports: `cannot identify image file <_io.BytesIO object at 0x7f…>`, another one for each image and call."""
    (photos / "02.png").write_bytes(b"no image at all")
    texts = []
    for name in ("one", "two"):
        assert call(run, photos, tmp_path / name) == 1
        texts.append((tmp_path / f"{name}.skipped.csv").read_text())
    assert texts[0] == texts[1]
    assert "0x" not in texts[0]
    first, second = (line.split(",", 1)[1] for line in texts[0].splitlines()[1:3])
    assert first == second


def test_a_folder_that_cannot_be_read_is_not_said_to_need_writing(
    run: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Reports: "choose a folder that you may write" about images on somebody else's share."""

    def deny(*_: object) -> Iterator[Any]:
        raise PermissionError(errno.EACCES, "Permission denied", str(photos))

    monkeypatch.setattr("matl_scale.errors.os.access", lambda path, _: str(path) != str(photos))
    monkeypatch.setattr(FolderImages, "names", deny)
    assert call(run, photos, tmp_path / "out.parquet") == 2
    expected = f"error: {photos}: Permission denied. Choose one that you may read, or change its permissions.\n"
    assert capsys.readouterr().err.endswith(expected)
    assert not (tmp_path / "out.parquet").exists()


@pytest.mark.parametrize("environment", [{"RANK": "1"}, {"WORLD_SIZE": "x"}])
def test_half_of_a_launchers_variables_are_named_here_too(
    run: Path,
    photos: Path,
    tmp_path: Path,
    environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert call(run, photos, tmp_path / "out.parquet") == 2
    assert next(iter(environment)) in capsys.readouterr().err
