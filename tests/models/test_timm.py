"""timm's CNNs as backbones: the same function as timm's own model, the same sub-network as masked execution, clear refusals."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from helpers.equal_executions import check_equal_executions
from helpers.network_outputs import gap, images_of
from helpers.timm_models import scatter, timm_backbone, timm_model
from matl_scale import InputError, extras, route
from matl_scale.deploy.export.dense import dense_network
from matl_scale.models.backbone_list import examine
from matl_scale.models.backbones import build_backbone, build_backbone_outline, check_weights_fit
from matl_scale.models.config import ModelConfig
from matl_scale.models.from_timm.library import load_timm
from matl_scale.models.network import RoutedModel
from matl_scale.models.weights.description import WeightsDescription, complete, describe_stored
from matl_scale.models.weights.file import read_weights
from matl_scale.routing.blocks import number_blocks
from matl_scale.routing.channelwise import BlurPool, SamePadding

# timm's own tiny models; one with padding "same", which they do not have
SMALL = [
    "test_byobnet", "test_convnext", "test_convnext3", "test_efficientnet_gn", "test_efficientnet_ln", "test_resnet",
    "tf_mobilenetv3_small_minimal_100",
]  # fmt: skip


@pytest.mark.parametrize("name", SMALL)
def test_a_backbone_computes_what_timms_model_computes(name: str) -> None:
    model, backbone = timm_model(name), timm_backbone(name)
    assert backbone.state_dict().keys() == model.state_dict().keys()
    backbone.load_state_dict(model.state_dict())
    images = images_of(33, batch=2)
    for train in (True, False):
        assert gap(backbone.train(train)(images), model.train(train)(images)) < 1e-12
    for key, value in model.state_dict().items():  # statistics have moved in training
        assert gap(backbone.state_dict()[key].double(), value.double()) < 1e-12, key


@pytest.mark.parametrize("name", SMALL)
def test_sub_networks_equal_masked_execution(name: str) -> None:
    check_equal_executions(timm_backbone(name), image_size=32)


@pytest.mark.parametrize("name", ["test_byobnet", "test_convnext", "tf_mobilenetv3_small_minimal_100"])
def test_weights_of_a_file_give_timms_features(name: str, tmp_path: Path) -> None:
    """A whole timm model, with its classifier, in a file; of the three, each has another kind of head."""
    model, images = load_timm("This test").create_model(name, num_classes=7, drop_rate=0.0), images_of(32).float()
    scatter(model)(images)  # moves statistics
    backbones = []
    for path in (tmp_path / "weights.safetensors", tmp_path / "weights.pth"):
        if path.suffix == ".pth":
            torch.save({"arch": name, "state_dict": model.state_dict()}, path)
        else:
            save_file(model.state_dict(), path)
        config = ModelConfig(name=f"timm/{name}", width=1.0, stem="standard", weights=str(path))
        check_weights_fit(config, read_weights(str(path)))
        backbones.append(build_backbone(config, seed=0).eval())
    with torch.no_grad():
        wanted = model.eval().forward_head(model.forward_features(images), pre_logits=True)
        for backbone in backbones:
            torch.testing.assert_close(backbone(images), wanted)


def test_weights_of_another_timm_model_are_refused_with_the_first_names_that_differ(tmp_path: Path) -> None:
    save_file(load_timm("This test").create_model("test_efficientnet").state_dict(), tmp_path / "other.safetensors")
    config = ModelConfig(
        name="timm/test_resnet", width=1.0, stem="standard", weights=str(tmp_path / "other.safetensors")
    )
    with pytest.raises(InputError, match=r"= timm/test_resnet.*missing \(conv1\.0\.weight.*file alone \(blocks"):
        build_backbone(config, seed=0)


def test_images_are_those_of_timms_description(tmp_path: Path) -> None:
    """By the file's own description; by the name that timm gives its files; else by what timm says of the model."""
    tensors = {"conv_stem.weight": torch.zeros(1)}
    torch.save(tensors, tmp_path / "efficientnet_lite0_ra-37913777.pth")
    (tmp_path / "model.pth").write_bytes((tmp_path / "efficientnet_lite0_ra-37913777.pth").read_bytes())
    named = describe_stored(read_weights(str(tmp_path / "efficientnet_lite0_ra-37913777.pth")))
    assert (named.architecture, named.image_size) == ("efficientnet_lite0", 224)
    silent = describe_stored(read_weights(str(tmp_path / "model.pth")))
    assert silent == complete(silent, "resnet18") == WeightsDescription()
    usual = complete(silent, "timm/tf_efficientnet_lite1")
    assert (usual.mean, usual.std, usual.image_size) == ([0.5] * 3, [0.5] * 3, 240)
    own = WeightsDescription(mean=[0.1] * 3, std=[0.2] * 3, image_size=64)
    assert complete(own, "timm/tf_efficientnet_lite1") == own


def test_rates_fall_from_block_to_block() -> None:
    blocks = number_blocks(route(timm_backbone("test_resnet"), 2, 0.5))
    order = [blocks[f"{name}.weight"] for name in ("conv1.0", "layer1.0.conv1", "layer2.0.conv1", "layer4.0.conv1")]
    assert order == sorted(set(order))
    assert blocks["layer1.0.conv1.weight"] == blocks["layer1.0.conv2.weight"]


def test_an_exported_sub_network_needs_no_timm() -> None:
    trunk = route(timm_backbone("test_convnext"), 2, 0.5, seed=1)
    model = RoutedModel(trunk, [2, 3], trunk(images_of(32), torch.tensor([0])).shape[1]).double().eval()
    dense = dense_network(model, 1)
    assert not any(type(module).__module__.startswith("timm") for module in dense.modules())
    wanted = model.heads[1](model.trunk(images_of(32), torch.tensor([1])))
    assert gap(dense(images_of(32)), wanted) < 1e-10


def test_padding_and_blur_are_timms() -> None:
    layers = load_timm("This test").layers
    for size in (5, 6, 7):
        images = images_of(size, batch=1)
        padding, conv = SamePadding((3, 3), (2, 2)), nn.Conv2d(3, 4, 3, stride=2).double()
        same = layers.Conv2dSame(3, 4, 3, stride=2).double()
        same.load_state_dict(conv.state_dict())
        assert torch.equal(conv(padding(images)), same(images))
        blur = layers.BlurPool2d(3, filt_size=3, stride=2).double()
        assert gap(BlurPool(3, 2, 1, "reflect").double()(images), blur(images)) < 1e-15


def test_narrow_networks_and_small_stems() -> None:
    narrow = timm_backbone("test_resnet", width=0.5)
    assert narrow(images_of(32)).shape[1] == timm_backbone("test_resnet")(images_of(32)).shape[1] // 2
    shapes = {}
    for stem in ("standard", "small"):
        backbone = timm_backbone("tf_mobilenetv3_small_minimal_100", stem=stem)
        backbone.conv_stem.register_forward_hook(lambda *call, stem=stem: shapes.update({stem: call[2].shape[-1]}))
        backbone(images_of(32))
    assert shapes == {"standard": 16, "small": 32}


def test_an_outline_has_no_values() -> None:
    outline = build_backbone_outline(ModelConfig(name="timm/test_efficientnet", width=1.0, stem="standard"), seed=0)
    assert all(parameter.is_meta for parameter in outline.parameters())


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("timm/test_vit_relpos", "no attention of a kind that can be cut by heads"),
        ("timm/test_mambaout", r"module `stages.0.blocks.0`: the function split cannot be followed"),
    ],
)
def test_what_cannot_be_routed_is_listed_with_its_module(name: str, reason: str) -> None:
    found = examine(name)
    assert not found.routed
    assert not found.subnetwork
    assert re.search(reason, found.reason)


def test_masks_without_sub_networks_are_listed_as_such() -> None:
    found = examine("timm/test_nfnet")
    assert found.routed
    assert not found.subnetwork
    assert "`stem.conv1`: ScaledStdConv2d" in found.reason


def test_an_unknown_name_offers_the_nearest() -> None:
    with pytest.raises(InputError, match=r"without a tag of weights.*Did you mean `timm/resnet50`"):
        build_backbone(ModelConfig(name="timm/resnet50.a1_in1k"), seed=0)


def test_pretrained_weights_are_torchvisions() -> None:
    with pytest.raises(InputError, match=r"`model.pretrained` should be false for timm/resnet18"):
        ModelConfig(name="timm/resnet18", pretrained=True)


def test_without_timm_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"timm/resnet18 needs `timm`.*pip install 'matl-scale\[timm\]'"):
        build_backbone(ModelConfig(name="timm/resnet18"), seed=0)
