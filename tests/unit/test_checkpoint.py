"""Checkpoints: complete or absent, pruned in the right order, checked when loaded."""

from pathlib import Path

import pytest
import torch

from matl_scale import InputError
from matl_scale.train import checkpoint as checkpoints
from matl_scale.train.checkpoint import check_compatible, list_checkpoints, load_state, read_info, save_checkpoint

INFO = {"masks": "m", "manifest_id": "i", "tasks": ["a", "b"], "world_size": 1}


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
        ({"tasks": ["a"]}, "other tasks"),
        ({"manifest_id": "x"}, "another shard set"),
        ({"masks": "x"}, "other routing masks"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path, given: dict, message: str) -> None:
    info = read_info(save(tmp_path, 1))
    fitting = {"tasks": ["a", "b"], "manifest_id": "i", "masks": "m"}
    check_compatible(info, **fitting)
    with pytest.raises(InputError, match=message):
        check_compatible(info, **{**fitting, **given})


def test_a_folder_that_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a complete checkpoint"):
        read_info(tmp_path)
