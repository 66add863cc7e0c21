"""`model.weights`: files of weights in the layouts that people have, and what does not fit."""

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from matl_scale.errors import InputError
from matl_scale.models.backbones import build_backbone
from matl_scale.models.config import ModelConfig
from matl_scale.models.weights.description import WeightsDescription, describe_pretrained, describe_stored
from matl_scale.models.weights.file import read_weights
from matl_scale.vision import models

NAME = "squeezenet1_1"  # the smallest
CONFIG = ModelConfig(name=NAME, width=1.0, stem="standard")
State = dict[str, torch.Tensor]


def draw_state(name: str = NAME, **options: Any) -> State:
    """The state dict of a whole torchvision model with other weights than a seed of a run draws."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(77)
        state: State = models.get_model(name, weights=None, **options).state_dict()
    return state


@pytest.fixture(scope="module")
def state() -> State:
    return draw_state()


def build(path: Path, config: ModelConfig = CONFIG) -> nn.Module:
    return build_backbone(replace(config, weights=str(path)), seed=0)


def assert_has(backbone: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    for key, value in backbone.state_dict().items():
        torch.testing.assert_close(value, state[key].to(value), rtol=0, atol=0, msg=key)


def prefixed(state: State, prefix: str) -> State:
    return {f"{prefix}{key}": value for key, value in state.items()}


# what training scripts save: torchvision's and timm's references with averages beside the network, DDP, Lightning, MoCo, DINO
CHECKPOINTS: dict[str, Callable[[State, State], Any]] = {
    "a state dict": lambda state, _: state,
    "DDP": lambda state, _: prefixed(state, "module."),
    "torchvision": lambda state, other: {
        "model": other, "model_ema": {"n_averaged": torch.tensor(3), **prefixed(state, "module.")}, "epoch": 4
    },
    "timm": lambda state, other: {
        "arch": NAME, "args": argparse.Namespace(lr=0.1), "state_dict": other, "state_dict_ema": state
    },
    "Lightning": lambda state, _: {"state_dict": prefixed(state, "model.backbone."), "hyper_parameters": {"lr": 1.0}},
    "half": lambda state, _: {"model_state": {key: value.half() for key, value in state.items()}},
    "mean teacher": lambda state, other: {"model": other, "teacher": state},
    "distilled": lambda state, other: {"model": state, "teacher": {**other, "more": torch.zeros(1)}},
    "DINO": lambda state, other: {"student": prefixed(other, "module.backbone."), "teacher": prefixed(state, "backbone.")},
    "an average beside it": lambda state, other: prefixed(other, "net.") | prefixed(state, "ema_net."),
    "no head": lambda state, _: {key: value for key, value in state.items() if not key.startswith("classifier")},
    "another head": lambda state, _: state | {"projector.0.weight": torch.zeros(4, 4), "classifier.1.bias": torch.zeros(7)},
}  # fmt: skip


@pytest.mark.parametrize("layout", CHECKPOINTS)
def test_checkpoints_of_training_scripts_are_read(layout: str, state: State, tmp_path: Path) -> None:
    other = {key: value + 1 for key, value in state.items()}
    torch.save(CHECKPOINTS[layout](state, other), tmp_path / "weights.pth")
    expected = {key: value.half() for key, value in state.items()} if layout == "half" else state
    assert_has(build(tmp_path / "weights.pth"), expected)


def test_hub_folder_and_safetensors_describe_themselves(state: State, tmp_path: Path) -> None:
    described = {"mean": [0.5, 0.4, 0.3], "std": [0.1, 0.2, 0.3], "input_size": [3, 96, 96], "interpolation": "bicubic"}
    expected = WeightsDescription(architecture="resnet18", mean=[0.5, 0.4, 0.3], std=[0.1, 0.2, 0.3], image_size=96)
    folder = tmp_path / "hub"
    folder.mkdir()
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"architecture": "resnet18", "pretrained_cfg": described}))
    for path in (folder, folder / "model.safetensors"):
        assert_has(build(path), state)
        assert describe_stored(read_weights(str(path))) == expected
    metadata = {"architecture": "resnet18", "pretrained_cfg": json.dumps(described)}
    save_file(state, tmp_path / "own.safetensors", metadata=metadata)
    assert describe_stored(read_weights(str(tmp_path / "own.safetensors"))) == expected
    save_file(state, tmp_path / "silent.safetensors")
    assert describe_stored(read_weights(str(tmp_path / "silent.safetensors"))) == WeightsDescription()


def test_torchvision_knows_its_own_files_by_name(tmp_path: Path) -> None:
    (entry,) = models.get_model_weights("efficientnet_v2_l")
    path = tmp_path / entry.url.rpartition("/")[2]
    torch.save({"features.0.weight": torch.zeros(1)}, path)
    found = describe_stored(read_weights(str(path)))
    assert found == describe_pretrained("efficientnet_v2_l")
    assert (found.mean, found.std, found.image_size) == ([0.5] * 3, [0.5] * 3, 480)


def test_weights_for_grey_images_give_what_they_gave(tmp_path: Path) -> None:
    """A grey image has three equal channels here."""
    grey = draw_state()
    grey["features.0.weight"] = grey["features.0.weight"].sum(dim=1, keepdim=True)
    save_file(grey, tmp_path / "grey.safetensors", metadata={"mean": "[0.5]", "std": "[0.25]"})
    backbone = build(tmp_path / "grey.safetensors").eval()
    image = torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    first = backbone.get_submodule("features.0")
    expected = nn.functional.conv2d(image, grey["features.0.weight"], grey["features.0.bias"], stride=2)
    torch.testing.assert_close(first(image.expand(-1, 3, -1, -1)), expected)
    assert describe_stored(read_weights(str(tmp_path / "grey.safetensors"))).mean == [0.5] * 3


class Code:
    """What an untrusted pickle does."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("this code runs",))


def test_a_file_that_needs_code_is_refused_and_not_run(
    state: State, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"state_dict": state, "extra": Code()}, tmp_path / "code.pth")
    with pytest.raises(InputError, match=r"code\.pth needs code to be run to be read \(it names print\)"):
        build(tmp_path / "code.pth")
    assert "this code runs" not in capsys.readouterr().out


def test_other_architectures_are_refused_with_the_first_names_that_differ(tmp_path: Path) -> None:
    torch.save(draw_state("squeezenet1_0"), tmp_path / "other.pth")
    with pytest.raises(InputError) as error:
        build(tmp_path / "other.pth")
    assert "other.pth does not fit `model.name` = squeezenet1_1, which has 50 tensors: " in str(error.value)
    assert "of another shape (features.0.weight: (96, 3, 7, 7) in the file, (64, 3, 3, 3) here, " in str(error.value)
    assert "missing (features.6.squeeze.weight, features.6.squeeze.bias, features.6.expand1x1.weight and " in str(
        error.value
    )
    assert "in the file alone (features.5.squeeze.weight, features.5.squeeze.bias, " in str(error.value)
    torch.save({"model": {"blocks.0.weight": torch.zeros(1)}}, tmp_path / "strange.pth")
    with pytest.raises(InputError, match=r"none of its names is there \(the file has blocks\.0\.weight\)"):
        build(tmp_path / "strange.pth")
    torch.save(draw_state() | {"layer9.weight": torch.zeros(1, 1, 1, 1)}, tmp_path / "longer.pth")
    with pytest.raises(InputError, match=r"1 in the file alone \(layer9\.weight\)"):
        build(tmp_path / "longer.pth")


def test_weights_of_a_transformer_for_other_images_are_refused_with_the_key_that_says_so(tmp_path: Path) -> None:
    config = ModelConfig(name="timm/vit_tiny_patch16_224", width=1.0, stem="standard", args={"depth": 1})
    small = replace(config, args={"depth": 1, "img_size": 32})
    torch.save(build_backbone(small, seed=0).state_dict(), tmp_path / "small.pth")
    with pytest.raises(InputError, match=r"1 of another shape.*images of another size.*: set img_size in `model.args`"):
        build(tmp_path / "small.pth", config)
    build(tmp_path / "small.pth", small)


def test_files_that_are_none_are_named(state: State, tmp_path: Path) -> None:
    path, folder = tmp_path / "weights.pth", tmp_path / "folder"
    folder.mkdir()
    cases: list[tuple[Path, bytes, str]] = [
        (tmp_path / "nothing.pth", b"", "is no file of weights, or damaged"),
        (tmp_path / "text.pth", b"no weights", "is no file of weights, or damaged"),
        (tmp_path / "cut.safetensors", b"\x40\x00\x00\x00\x00\x00\x00\x00{}", "is damaged or cut off"),
    ]
    for file, content, message in cases:
        file.write_bytes(content)
        with pytest.raises(InputError, match=f"{file.name} {message}"):
            build(file)
    torch.save(torch.zeros(3), path)
    with pytest.raises(InputError, match="holds no weights by name"):
        build(path)
    with pytest.raises(InputError, match=r"the folder .* holds neither model\.safetensors nor pytorch_model\.bin"):
        build(folder)
    with pytest.raises(InputError, match=r"there is no file .*missing\.pth"):
        build(tmp_path / "missing.pth")
    torch.save(prefixed(state, "a.") | prefixed(state, "b."), path)
    with pytest.raises(InputError, match=r"holds 2 networks that fit: their names begin with a\., b\."):
        build(path)


def test_settings_that_contradict_weights_are_refused() -> None:
    for settings, message in (
        ({"pretrained": True}, "a network has one origin"),
        ({"width": 0.5}, "`model.width` should be 1 with `model.weights`"),
        ({"mean": [0.5]}, "`model.mean` should be three numbers"),
        ({"std": [0.5, 0.5, 0.0]}, "`model.std` should be above 0"),
    ):
        with pytest.raises(InputError, match=message):
            ModelConfig(weights="file.pth", **settings)  # type: ignore[arg-type]
