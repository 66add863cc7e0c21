"""Predictions for images without labels equal the evaluation's, from folders and tars alike, and are decided by the rules of the
network; damaged images are listed."""

import csv
import json
import re
import runpy
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data_prep.image_check import check_image
from helpers.decision_rules import (
    forget_decisions,
    give_decisions,
    give_prior_offsets,
    slow_decisions,
    slow_probabilities,
)
from helpers.run_configs import build_config
from helpers.shard_sets import ShardSet
from matl_scale.data.images.fit import Fit, fit_square
from matl_scale.data.images.gate import BadImage
from matl_scale.data.shards.manifest import read_manifest
from matl_scale.decisions.rule import DecisionRule
from matl_scale.models.routing_config import RoutingConfig
from matl_scale.runs.checkpoints.checkpoint import read_info
from matl_scale.runs.layout import CHECKPOINT_FILE, DECISIONS_FILE, RunFolder
from matl_scale.runs.predictions import read_predictions
from matl_scale.train.config import Config
from matl_scale.train.process_group import build_accelerator
from matl_scale.train.run import train
from matl_scale.train.step.train_step import TrainConfig

SCRIPT = Path(__file__).parents[2] / "launch/predict.py"


def train_run(folder: Path, shards: ShardSet, routing: RoutingConfig, fit: Fit = "crop") -> Config:
    config = build_config(folder, shards, "run", train=TrainConfig(steps=12, precision="fp32"), routing=routing)
    config = replace(config, data=replace(config.data, fit=fit))
    train(config, build_accelerator("fp32"))
    forget_decisions(network_of(config))
    return config


def network_of(config: Config) -> Path:
    """Returns the checkpoint of a run's best network."""
    (found,) = RunFolder(config.run.folder).best_folder.glob("step-*")
    return found


@pytest.fixture(scope="module")
def run(small_set: ShardSet, tmp_path_factory: pytest.TempPathFactory) -> Config:
    return train_run(tmp_path_factory.mktemp("runs"), small_set, RoutingConfig(routes="task"))


def predict(config: Config, *arguments: object) -> int:
    """Calls the script in this process; returns its exit code."""
    old, sys.argv = sys.argv, ["predict.py", "--run", str(config.run.folder), *map(str, arguments), "--workers", "0"]
    try:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    except SystemExit as stop:
        return int(stop.code or 0)
    finally:
        sys.argv = old
    return 0


def write_images(folder: Path, pixels: np.ndarray) -> Path:
    folder.mkdir()
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{i:03d}.png")
    return folder


def classes_by_image(path: Path, tasks: Sequence[str]) -> dict[str, list[str]]:
    """Returns the predicted classes by image, in the order of the tasks."""
    found: dict[str, list[str]] = {}
    rows = pq.read_table(path).to_pylist()
    assert [row["task"] for row in rows] == list(tasks) * (len(rows) // len(tasks))
    for row in rows:
        found.setdefault(row["image"], []).append(row["prediction"])
        assert row["probability"] == max(row["probabilities"])
        assert sum(row["probabilities"]) == pytest.approx(1, abs=1e-6)
    return found


def test_predictions_are_those_of_the_evaluation(run: Config, small_set: ShardSet, tmp_path: Path) -> None:
    compare_with_evaluation(run, small_set, tmp_path)


def test_so_are_those_of_tasks_that_share_routes(small_set: ShardSet, tmp_path: Path) -> None:
    run = train_run(tmp_path, small_set, RoutingConfig(routes=2, grouping="random", start="layer3"), "pad")
    compare_with_evaluation(run, small_set, tmp_path)
    check_fit(run, small_set, tmp_path)


def check_fit(run: Config, small_set: ShardSet, tmp_path: Path) -> None:
    """Images that are no squares are predicted as the squares that the run's `data.fit` makes of them."""
    wide = np.concatenate([small_set.pixels[:4], small_set.pixels[4:8]], axis=2)
    squares = np.stack([np.asarray(fit_square(Image.fromarray(image), 16, run.data.fit)) for image in wide])
    tables = []
    for name, pixels in (("wide", wide), ("squares", squares)):
        folder = write_images(tmp_path / name, pixels)
        assert predict(run, "--images", folder, "--out", tmp_path / f"{name}.parquet") == 0
        tables.append(pq.read_table(tmp_path / f"{name}.parquet"))
    assert tables[0].equals(tables[1])


def compare_with_evaluation(run: Config, small_set: ShardSet, tmp_path: Path) -> None:
    assert predict(run, "--images", small_set.root, "--out", tmp_path / "all.parquet") == 0
    expected = read_predictions(RunFolder(run.run.folder).predictions_file("val"))
    by_image = classes_by_image(tmp_path / "all.parquet", small_set.manifest.task_names)
    assert len(by_image) == 90
    by_key = {int(name.rsplit("/", 1)[1].removesuffix(".png")): classes for name, classes in by_image.items()}
    for key, predicted in zip(expected.samples.tolist(), expected.predicted.tolist(), strict=True):
        for task, label, found in zip(expected.info.tasks, predicted, by_key[key], strict=True):
            assert label < 0 or task.classes[label] == found
    about = json.loads(pq.read_schema(tmp_path / "all.parquet").metadata[b"matl_scale"])
    assert about["step"] == 12
    assert about["classes"]["task_2"] == ["class_0", "class_1", "class_2"]


def logits_of(table: Path, classes: dict[str, list[str]]) -> dict[str, np.ndarray]:
    """Returns logits, up to a constant per image, from a table that was written without decisions, by task."""
    rows = pq.read_table(table).to_pylist()
    return {name: np.log([row["probabilities"] for row in rows if row["task"] == name]) for name in classes}


@pytest.fixture
def decided(run: Config) -> Iterator[Path]:
    """The run's best network, whose decisions and prior offsets are forgotten after the test."""
    network = network_of(run)
    before = (network / CHECKPOINT_FILE).read_bytes()
    yield network
    forget_decisions(network)
    (network / CHECKPOINT_FILE).write_bytes(before)


@pytest.mark.parametrize("fitted", [True, False])
def test_probabilities_and_decisions_follow_the_rules_of_the_network(
    run: Config,
    decided: Path,
    small_set: ShardSet,
    tmp_path: Path,
    fitted: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Without decisions, the prior correction alone applies, where a task has one."""
    chosen = ["--images", small_set.root]
    assert predict(run, *chosen, "--out", tmp_path / "raw.parquet") == 0
    line = capsys.readouterr().out
    assert line.endswith("; not calibrated: no decisions were fitted (matl-decide RUN)\n")
    classes = read_info(decided).classes
    prior = {"task_1": [0.0, 2.0], "task_4": [0.5, 0.0, 2.0, 0.0, -1.0]}
    give_prior_offsets(decided, prior)
    rules = {name: DecisionRule.unfitted(len(own), prior.get(name)) for name, own in classes.items()}
    if fitted:
        rules = give_decisions(decided).rules
    assert predict(run, *chosen, "--out", tmp_path / "out.parquet") == 0
    if fitted:
        assert capsys.readouterr().out.endswith("; decided for f1, fitted on val\n")
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.column_names == ["image", "task", "prediction", "probability", "decision", "probabilities"]
    rows = table.to_pylist()
    changed = 0
    for name, logits in logits_of(tmp_path / "raw.parquet", classes).items():
        own = [row for row in rows if row["task"] == name]
        expected = slow_probabilities(rules[name], logits)
        np.testing.assert_allclose([row["probabilities"] for row in own], expected, atol=1e-5)
        assert [row["prediction"] for row in own] == [classes[name][k] for k in expected.argmax(axis=1)]
        assert [row["decision"] for row in own] == [classes[name][k] for k in slow_decisions(rules[name], logits)]
        np.testing.assert_allclose([row["probability"] for row in own], expected.max(axis=1), atol=1e-5)
        changed += sum(row["decision"] != row["prediction"] for row in own)
    assert (changed > 0) == fitted
    about = json.loads(table.schema.metadata[b"matl_scale"])["decisions"]
    assert about["fitted_on"] == ("val" if fitted else "")
    assert about["aims"] == dict.fromkeys(classes, "f1" if fitted else "")
    assert about["thresholds"] == {name: rules[name].threshold for name, own in classes.items() if len(own) == 2}


def test_decisions_of_another_network_are_refused_in_a_line(
    run: Config, decided: Path, small_set: ShardSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    give_decisions(decided, sha256="0" * 64)
    assert predict(run, "--images", small_set.root, "--out", tmp_path / "out.parquet") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert (
        "decisions.parquet has the decisions of another network, of step 12. Fit them again (matl-decide RUN)" in line
    )
    (decided / DECISIONS_FILE).write_bytes(b"no table")
    assert predict(run, "--images", small_set.root, "--out", tmp_path / "out.parquet") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "decisions.parquet does not hold decisions" in line
    assert not (tmp_path / "out.parquet").exists()


def test_folders_and_tars_give_the_same(run: Config, small_set: ShardSet, tmp_path: Path) -> None:
    folder = write_images(tmp_path / "images", small_set.pixels[:7])
    chosen = ["--tasks", "task_[24]", "--batch-size", 3]
    assert predict(run, "--images", folder, "--out", tmp_path / "folder.parquet", *chosen) == 0
    assert predict(run, "--images", small_set.root, "--out", tmp_path / "tars.parquet", *chosen) == 0
    from_folder, from_tars = (
        classes_by_image(tmp_path / f"{n}.parquet", ["task_2", "task_4"]) for n in ("folder", "tars")
    )
    paths = read_manifest(small_set.root).samples.select(["key", "path"]).to_pylist()
    key_of = {row["path"]: row["key"] for row in paths}
    by_key = {name.rsplit("/", 1)[1].removesuffix(".png"): found for name, found in from_tars.items()}
    for name, found in from_folder.items():
        assert found == by_key[key_of[f"images/{name}"]]


def test_what_cannot_be_decoded_is_listed_and_ends_with_1(
    run: Config, small_set: ShardSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_images(tmp_path / "images", small_set.pixels[:3])
    (folder / "001.png").write_bytes((folder / "001.png").read_bytes()[:60])
    (folder / "002.png").write_bytes(b"")
    assert predict(run, "--images", folder, "--out", tmp_path / "out.parquet") == 1
    assert list(classes_by_image(tmp_path / "out.parquet", small_set.manifest.task_names)) == ["000.png"]
    listed = (tmp_path / "out.parquet.skipped.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in listed] == ["image", "001.png", "002.png"]
    assert "2 images were left out: 001.png, 002.png" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tasks", "tusk_2"], "Did you mean `task_2`?"),
        (["--out", "nowhere/at/all.parquet"], "there is no folder nowhere/at"),
        (["--images", "empty"], "holds no image"),
        (["--images", "broken.tar"], "broken.tar cannot be read as an uncompressed tar"),
        (["--images", "cut.tar"], "is damaged or cut off at byte"),
        (["--checkpoint", "elsewhere"], "is not a complete checkpoint"),
        (["--batch-size", "0"], "`--batch-size` should be at least 1"),
    ],
)
def test_bad_input_is_one_line_and_code_2(
    run: Config,
    small_set: ShardSet,
    tmp_path: Path,
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.tar").write_bytes(b"no tar" * 200)
    whole = bytearray(next(small_set.root.glob("val-*.tar")).read_bytes())
    offset = whole.index(b".png", 2000)  # in a header behind the first
    whole[offset] ^= 1  # tarfile reads such a header as the end of the tar
    (tmp_path / "cut.tar").write_bytes(whole)
    assert predict(run, "--images", small_set.root, *arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    assert message in error
    assert not (tmp_path / "predictions.parquet").exists()


def test_what_shard_refuses_is_left_out_for_the_same_reason(run: Config, small_set: ShardSet, tmp_path: Path) -> None:
    folder = write_images(tmp_path / "images", small_set.pixels[:2])
    Image.new("L", (200, 100)).save(folder / "large.png")
    Image.new("L", (200, 100)).save(folder / "large.jpg")
    Image.new("I;16", (8, 8)).save(folder / "x-ray.png")
    out = tmp_path / "all.parquet"
    assert predict(run, "--images", folder, "--out", out, "--max-pixels", 19_999) == 1
    listed = csv.DictReader((tmp_path / "all.parquet.skipped.csv").read_text(encoding="utf-8").splitlines())
    reasons = {row["image"]: row["reason"] for row in listed}
    for name, reason in reasons.items():
        with pytest.raises(BadImage, match=re.escape(reason)):
            check_image((folder / name).read_bytes(), max_pixels=19_999)
    assert sorted(reasons) == ["large.jpg", "large.png", "x-ray.png"]
    assert "200 × 100 = 20000 pixels" in reasons["large.jpg"]
    assert predict(run, "--images", folder, "--out", out) == 1
    assert len(classes_by_image(out, small_set.manifest.task_names)) == 4
