"""Checkpoints: complete or absent, pruned in the right order, checked when loaded."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from matl_scale import InputError
from matl_scale.config import Config
from matl_scale.models import RoutingConfig
from matl_scale.train import checkpoint as checkpoints
from matl_scale.train.checkpoint import (
    check_network,
    check_resumable,
    list_checkpoints,
    load_state,
    read_info,
    save_checkpoint,
    set_aside_after,
)
from matl_scale.train.optim import OptimConfig
from matl_scale.train.step import TrainConfig

CONFIG = asdict(Config())
INFO = {
    "masks": "m",
    "manifest_id": "i",
    "tasks": [["a", 2], ["b", 3]],
    "shards": "s",
    "world_size": 1,
    "config": CONFIG,
}


def save(root: Path, step: int, keep: int = 2) -> Path:
    return save_checkpoint(root, step, {"step": step, "weight": torch.arange(3)}, INFO, keep)


def test_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (1, 5, 10, 100):
        save(tmp_path, step)
    assert [info.step for info in list_checkpoints(tmp_path)] == [10, 100]
    assert load_state(list_checkpoints(tmp_path)[-1])["weight"].tolist() == [0, 1, 2]
    assert len(list(tmp_path.iterdir())) == 2


def test_a_save_that_breaks_off_leaves_the_old_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2)

    def full(*_: object) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "write_json", full)
        with pytest.raises(OSError, match="No space"):
            save(tmp_path, 3)
    assert [info.step for info in list_checkpoints(tmp_path)] == [1, 2]
    save(tmp_path, 3)
    assert [info.step for info in list_checkpoints(tmp_path)] == [2, 3]


def test_a_flipped_byte_is_found(tmp_path: Path) -> None:
    folder = save(tmp_path, 1)
    data = bytearray((folder / "state.pt").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "state.pt").write_bytes(data)
    with pytest.raises(InputError, match=r"state\.pt is damaged"):
        load_state(read_info(folder))


def test_nothing_in_a_checkpoint_is_executed(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path, 1, {"bad": Path("x")}, INFO, 1)
    with pytest.raises(Exception, match="Weights only load failed"):
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
        ({"routing": RoutingConfig(statistics="shared")}, "`routing.statistics` = 'task', not 'shared'"),
        ({"optim": OptimConfig(name="sgd")}, "`optim.name`"),
        ({"train": TrainConfig(ema_decay=0.9)}, "keeps no moving average"),
    ],
)
def test_a_run_of_another_kind_cannot_go_on(tmp_path: Path, change: dict, message: str) -> None:
    info = read_info(save(tmp_path, 1))
    check_resumable(info, config=asdict(replace(Config(), optim=OptimConfig(lr=7.0))), shards="s")
    with pytest.raises(InputError, match=message):
        check_resumable(info, config=asdict(replace(Config(), **change)), shards="s")
    with pytest.raises(InputError, match="another shard set"):
        check_resumable(info, config=CONFIG, shards="x")


def test_going_back_sets_later_checkpoints_aside(tmp_path: Path) -> None:
    for step in (6, 9, 10):
        save(tmp_path, step, keep=9)
    set_aside_after(tmp_path, 6)
    save(tmp_path, 7, keep=1)
    assert [info.step for info in list_checkpoints(tmp_path)] == [7]
    assert (tmp_path / "abandoned-step-000000010").is_dir()


def test_a_folder_that_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a complete checkpoint"):
        read_info(tmp_path)


def test_a_checkpoint_of_another_format_is_refused(tmp_path: Path) -> None:
    info = save(tmp_path, 3) / checkpoints.INFO_FILE
    info.write_text(info.read_text().replace(f'"format_version": {checkpoints.FORMAT_VERSION}', '"format_version": 1'))
    with pytest.raises(InputError, match="has checkpoint format 1; this version of matl_scale reads 2"):
        list_checkpoints(tmp_path)
