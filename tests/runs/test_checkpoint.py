"""Checkpoints: complete or absent, pruned in the right order, checked when loaded."""

import errno
import json
import os
import random
import subprocess
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from helpers.run_configs import plain
from matl_scale import InputError
from matl_scale.errors import RunError
from matl_scale.models.routing_config import RoutingConfig
from matl_scale.routes import Routes
from matl_scale.runs.checkpoints import checkpoint as checkpoints
from matl_scale.runs.checkpoints.checkpoint import (
    checkpoint_folders,
    find_intact,
    load_state,
    open_checkpoint,
    read_info,
)
from matl_scale.runs.checkpoints.compatibility import check_network
from matl_scale.runs.checkpoints.writing import save_checkpoint, set_aside_after
from matl_scale.train.config import Config
from matl_scale.train.resume.check_config import check_resumable
from matl_scale.train.schedule import CheckpointConfig
from matl_scale.train.step.optim import OptimConfig
from matl_scale.train.step.train_step import TrainConfig

CONFIG = asdict(plain(Config()))
INFO = {
    "masks": "m",
    "manifest_id": "i",
    "classes": [["a", ["no", "yes"]], ["b", ["x", "y", "z"]]],
    "routes": {"names": ["both"], "route_of": [0, 0], "head_of": [0, 0]},
    "image_size": 16,
    "shards": "s",
    "world_size": 1,
    "config": CONFIG,
}


def save(root: Path, step: int, keep: int = 2) -> Path:
    return save_checkpoint(root, step, {"step": step, "weight": torch.arange(3)}, INFO, keep)


def steps(root: Path) -> list[int]:
    return [read_info(folder).step for folder in checkpoint_folders(root)]


def flip_a_bit(folder: Path) -> None:
    data = bytearray((folder / "state.pt").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "state.pt").write_bytes(data)


def test_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (1, 5, 10, 100):
        save(tmp_path, step)
    assert steps(tmp_path) == [10, 100]
    newest, _ = find_intact(tmp_path)
    assert newest is not None
    assert load_state(newest)["weight"].tolist() == [0, 1, 2]
    assert len(list(tmp_path.iterdir())) == 2


def test_a_save_that_breaks_off_leaves_the_old_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "disk/checkpoint.json")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(
            RunError, match=r"step 3 cannot be written: disk/checkpoint.json: No space .* Free some space"
        ):
            save(tmp_path, 3)
    assert len(list(tmp_path.iterdir())) == 2  # what was written of it takes no space
    assert steps(tmp_path) == [1, 2]
    save(tmp_path, 3)
    assert steps(tmp_path) == [2, 3]


def test_a_flipped_byte_is_found(tmp_path: Path) -> None:
    folder = save(tmp_path, 1)
    flip_a_bit(folder)
    with pytest.raises(InputError, match=r"state\.pt is damaged"):
        open_checkpoint(folder)
    with pytest.raises(InputError, match=r"has no intact checkpoint: .*state\.pt is damaged"):
        find_intact(tmp_path)


def test_a_flipped_bit_in_the_description_is_found(tmp_path: Path) -> None:
    save(tmp_path, 1)
    path = save(tmp_path, 2) / checkpoints.CHECKPOINT_FILE
    whole = path.read_bytes()
    generator = random.Random(0)
    for offset in generator.sample(range(len(whole)), 150):
        harmed = bytearray(whole)
        harmed[offset] ^= 1 << generator.randrange(7)
        path.write_bytes(harmed)
        found, complaints = find_intact(tmp_path)
        assert found is not None
        kept = found.step == 2 and json.loads(harmed) == json.loads(whole)  # harmless, in the white space between
        assert kept or (found.step, len(complaints)) == (1, 1), offset


@pytest.mark.parametrize("harm", ["a bit", "a missing file", "half a description"])
def test_the_newest_intact_one_is_found(tmp_path: Path, harm: str) -> None:
    save(tmp_path, 1)
    folder = save(tmp_path, 2)
    if harm == "a bit":
        flip_a_bit(folder)
    elif harm == "a missing file":
        (folder / "state.pt").unlink()
    else:
        (folder / "checkpoint.json").write_text('{"format_version": 3, "st')
    found, complaints = find_intact(tmp_path)
    assert found is not None
    assert found.step == 1
    assert len(complaints) == 1
    assert str(folder) in complaints[0]
    set_aside_after(tmp_path, found.step)
    assert steps(tmp_path) == [1]
    assert (tmp_path / "abandoned-step-000000002").is_dir()


def test_a_full_disk_leaves_the_earlier_ones(tmp_path: Path) -> None:
    """On a real file system of two megabytes."""
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", tmp_path], check=False).returncode:
        pytest.skip("only root can mount a file system")
    try:
        save(tmp_path, 1)
        with pytest.raises(
            RunError, match=r"step 2 cannot be written: .*state\.pt: No space left on device\. Free some"
        ):
            save_checkpoint(tmp_path, 2, {"weight": torch.zeros(1_000_000)}, INFO, 1)
        assert [path.name for path in tmp_path.iterdir()] == ["step-000000001"]
        open_checkpoint(tmp_path / "step-000000001")
        subprocess.run(["mount", "-o", "remount,ro", tmp_path], check=True)
        with pytest.raises(RunError, match=r"step 2 cannot be written: .* Choose a folder that can be written"):
            save(tmp_path, 2)
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_nothing_in_a_checkpoint_is_executed(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path, 1, {"bad": Path("x")}, INFO, 1)
    with pytest.raises(InputError, match="would run code"):
        load_state(read_info(folder))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tasks": {"a": 2}}, "other tasks"),
        ({"tasks": {"a": 2, "b": 4}}, "they differ in b"),
        ({"tasks": {"b": 3, "a": 2}}, "other tasks"),
        ({"masks": "x"}, "other routing masks"),
    ],
)
def test_another_network_is_refused(tmp_path: Path, given: dict, message: str) -> None:
    info = read_info(save(tmp_path, 1))
    fitting = {"tasks": {"a": 2, "b": 3}, "masks": "m"}
    check_network(info, **fitting)
    with pytest.raises(InputError, match=message):
        check_network(info, **{**fitting, **given})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"routing": RoutingConfig(statistics="shared")}, "`routing.statistics` = 'route', not 'shared'"),
        ({"optim": OptimConfig(name="sgd")}, "`optim.name`"),
        ({"train": TrainConfig(ema_decay=0.9)}, "keeps no moving average"),
    ],
)
def test_a_run_of_another_kind_cannot_go_on(tmp_path: Path, change: dict, message: str) -> None:
    info = read_info(save(tmp_path, 1))
    check_resumable(info, plain(replace(Config(), optim=OptimConfig(lr=7.0))), "s")
    with pytest.raises(InputError, match=message):
        check_resumable(info, plain(replace(Config(), **change)), "s")
    with pytest.raises(InputError, match="another shard set"):
        check_resumable(info, plain(Config()), "x")


def test_going_back_sets_later_checkpoints_aside(tmp_path: Path) -> None:
    for step in (6, 9, 10):
        save(tmp_path, step, keep=9)
    set_aside_after(tmp_path, 6)
    save(tmp_path, 7, keep=1)
    assert steps(tmp_path) == [7]
    assert (tmp_path / "abandoned-step-000000010").is_dir()


def test_a_folder_that_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a complete checkpoint"):
        read_info(tmp_path)


def test_a_checkpoint_of_another_format_is_refused(tmp_path: Path) -> None:
    info = save(tmp_path, 3) / checkpoints.CHECKPOINT_FILE
    content = json.loads(info.read_text())
    del content["checksum"]  # which formats before 4 have not
    info.write_text(json.dumps(content | {"format_version": 1}))
    with pytest.raises(InputError, match="has checkpoint format 1; this version of matl_scale reads 4 to 5"):
        find_intact(tmp_path)


def test_routes_are_read_back_and_an_older_format_has_one_for_every_task(tmp_path: Path) -> None:
    folder = save(tmp_path, 3)
    assert read_info(folder).routes == Routes.build(["both"], [0, 0])
    content = json.loads((folder / checkpoints.CHECKPOINT_FILE).read_text())
    del content["checksum"], content["routes"]
    older = content | {"format_version": 4}
    (folder / checkpoints.CHECKPOINT_FILE).write_text(json.dumps(older | {"checksum": checkpoints.hash_json(older)}))
    found, complaints = find_intact(tmp_path)
    assert found is not None
    assert not complaints
    assert found.routes == Routes.one_per_task(["a", "b"])
    assert found.frozen == []


def test_the_best_network_is_chosen_by_a_summary_that_exists() -> None:
    CheckpointConfig(best="p10_auroc")
    CheckpointConfig(best="")
    with pytest.raises(
        InputError, match=r"`checkpoint\.best` should be auto, one of macro_accuracy, .* Got 'macro_loss'"
    ):
        CheckpointConfig(best="macro_loss")
