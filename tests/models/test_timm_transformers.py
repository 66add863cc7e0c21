"""timm's vision transformers as backbones: timm's function and names, and arguments of their own."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from helpers.network_outputs import gap, images_of
from helpers.tiny_transformers import TIMM, TINY, tiny_timm, tiny_timm_backbone, tiny_timm_config
from matl_scale import InputError
from matl_scale.models.backbone_list import examine
from matl_scale.models.backbones import build_backbone
from matl_scale.models.config import ModelConfig
from matl_scale.models.from_timm.library import load_timm
from matl_scale.models.network import build_model
from matl_scale.models.routing_config import RoutingConfig
from matl_scale.models.transformers import fill_size, find_size_argument, has_patches
from matl_scale.models.weights.file import read_weights
from matl_scale.train.config import Config, with_settings
from matl_scale.train.defaults import fill
from matl_scale.train.defaults.facts import Machine, RunFacts


@pytest.mark.parametrize("kind", TIMM)
def test_a_backbone_computes_what_timms_model_computes(kind: str) -> None:
    model, backbone = tiny_timm(kind), tiny_timm_backbone(kind)
    assert backbone.state_dict().keys() == model.state_dict().keys()
    backbone.load_state_dict(model.state_dict())
    assert gap(backbone(images_of(16, 3)), model(images_of(16, 3))) < 1e-12


def test_weights_of_a_file_give_timms_features(tmp_path: Path) -> None:
    model = load_timm("This test").create_model(TIMM["token"][0], num_classes=7, **TINY).eval()
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    backbone = build_backbone(tiny_timm_config(weights=str(tmp_path / "weights.safetensors")), seed=0).eval()
    assert len(read_weights(str(tmp_path / "weights.safetensors")).tensors) == len(backbone.state_dict()) + 2
    images = images_of(16).float()
    with torch.no_grad():
        wanted = model.forward_head(model.forward_features(images), pre_logits=True)
        torch.testing.assert_close(backbone(images), wanted)


@pytest.mark.parametrize(
    ("name", "argument", "patches"),
    [
        ("vit_b_16", "image_size", True), ("swin_t", "", True), ("resnet18", "", False),
        ("timm/vit_tiny_patch16_224", "img_size", True), ("timm/resnet18", "", False),
    ],
)  # fmt: skip
def test_what_takes_the_size_of_images(name: str, argument: str, patches: bool) -> None:
    assert (find_size_argument(name), has_patches(name)) == (argument, patches)
    assert fill_size(name, {"depth": 2}, 32) == {"depth": 2, **({argument: 32} if argument else {})}
    assert fill_size(name, {argument: 64}, 32) == {argument: 64} or not argument


FACTS = RunFacts(
    num_samples=1000,
    num_labels=3000,
    image_size=16,
    machine=Machine(num_ranks=1, cores=2, threads=1, has_gpu=False, memory=10**10),
)


def test_automatic_choices_fit_a_transformer() -> None:
    args = {"patch_size": 4, "embed_dim": 24, "depth": 1, "num_heads": 3}
    config = with_settings(Config(), {"model.name": "timm/vit_tiny_patch16_224", "model.args": args})
    config = fill.fill_sigma(fill.fill_model(config, FACTS), num_routes=4)
    assert config.model.args == {"img_size": 16, **args}
    assert (config.model.stem, config.model.width, config.routing.sigma) == ("standard", 1.0, 0.667)
    assert fill.fill_sigma(config, num_routes=1).routing.sigma == 0.667  # stays
    build_model(config.model, config.routing, [2] * 4, 0, 16)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"args": {"heads": 4}}, r"timm cannot build it with `model.args` = \{'heads': 4\}: .*unexpected keyword argument"),
        ({"name": "vit_b_32", "args": {"image_size": 65}}, "torchvision cannot build vit_b_32.*indivisible by patch size"),
        ({"stem": "small"}, r"`model.stem` should be standard or auto with .*\(`model.args`: patch_size\)"),
        ({"width": 0.5}, r"`model.width` should be 1 here: the backbone .*`model.args`"),
    ],
)  # fmt: skip
def test_what_does_not_fit_a_transformer_is_refused(settings: dict[str, object], message: str) -> None:
    given: dict[str, object] = {"name": "timm/vit_tiny_patch16_224", "width": 1.0, "stem": "standard"}
    with pytest.raises(InputError, match=message):
        build_backbone(ModelConfig(**given | settings), seed=0)  # type: ignore[arg-type]


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(
        InputError, match=r"does not run on images of 24 pixels.*, and leave img_size out of `model.args`"
    ):
        build_model(tiny_timm_config(), RoutingConfig(sigma=0.5), [2, 2], 0, 24)


def test_a_list_of_backbones_has_transformers_whose_heads_do_not_split_by_its_sigma() -> None:
    found = examine("timm/test_vit3")  # 3 heads
    assert found.routed
    assert found.subnetwork
