"""Stochastic depth: which branches are left out and how often, the same in every execution."""

from typing import cast

import pytest
import torch
from torch import fx, nn

from matl_scale.errors import InputError
from matl_scale.models.backbones import build_backbone_outline
from matl_scale.models.config import ModelConfig
from matl_scale.models.network import RoutedModel, build_model
from matl_scale.models.routing_config import RoutingConfig
from matl_scale.routing.drop_path import find_branches, set_drop_path
from matl_scale.routing.subnetwork import Subnetwork
from matl_scale.routing.tracing import BackboneTracer
from matl_scale.vision import StochasticDepth


def rates_of(trunk: nn.Module) -> dict[str, float]:
    return {name: module.p for name, module in trunk.named_modules() if isinstance(module, StochasticDepth)}


def build(**settings: float) -> RoutedModel:
    config = ModelConfig(name="resnet18", width=0.0625, stem="small", **settings)  # type: ignore[arg-type]
    return build_model(config, RoutingConfig(sigma=0.5), [2, 3], 0, 16).double()


@pytest.fixture(scope="module")
def dropping() -> RoutedModel:
    return build(drop_path=0.4)


def test_the_rate_rises_with_depth_and_tensors_keep_their_names(dropping: RoutedModel) -> None:
    blocks = [f"layer{stage}.{block}.drop_path" for stage in range(1, 5) for block in range(2)]
    assert rates_of(dropping.trunk) == pytest.approx(
        {name: 0.05 * number for number, name in enumerate(blocks, start=1)}
    )
    plain = build()
    assert not rates_of(plain.trunk)
    found, expected = dropping.state_dict(), plain.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


def test_masked_and_sub_network_leave_out_the_same_branches(dropping: RoutedModel) -> None:
    trunk = dropping.trunk.train()
    images = torch.randn(6, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def run(network: nn.Module, seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return cast(torch.Tensor, network(images, torch.tensor([1])))

    masked = run(trunk, 7)
    torch.testing.assert_close(run(Subnetwork(trunk), 7), masked, rtol=1e-9, atol=1e-12)
    assert not torch.allclose(run(trunk, 8), masked), "other branches with another seed"
    trunk.eval()
    assert torch.equal(run(trunk, 7), run(trunk, 8))


def test_what_is_left_out_is_the_branch_and_not_the_shortcut() -> None:
    """With every branch left out, only convs of stem and shortcuts have a gradient."""
    trunk = build(drop_path=0.4).trunk.train()
    for module in trunk.modules():
        if isinstance(module, StochasticDepth):
            module.p = 1.0
    features = trunk(torch.randn(4, 3, 16, 16, dtype=torch.float64), torch.tensor([0]))
    features.square().sum().backward()
    moved = {name for name, p in trunk.named_parameters() if p.ndim == 4 and p.grad is not None and p.grad.any()}
    assert moved == {"conv1.weight", *(f"layer{stage}.0.downsample.0.weight" for stage in (2, 3, 4))}


@pytest.mark.parametrize(
    ("name", "branch", "count"),
    [("mobilenet_v2", "conv", 10), ("regnet_y_400mf", "f", 16), ("mnasnet0_5", "layers", 10)],
)
def test_branches_of_other_families(name: str, branch: str, count: int) -> None:
    traced = fx.symbolic_trace(build_backbone_outline(ModelConfig(name=name, width=1.0, stem="standard"), 0))
    ends = [str(end.target) for _, end in find_branches(traced)]
    assert len(ends) == count
    assert all(f".{branch}." in end for end in ends)


def test_the_branches_of_a_transformer_are_its_attention_and_its_mlps() -> None:
    config = ModelConfig(name="vit_b_16", width=1.0, stem="standard", args={"image_size": 32}, drop_path=0.24)
    model = build_model(config, RoutingConfig(sigma=1.0), [2], 0, 32, outline=True)
    layers = [f"encoder.layers.encoder_layer_{i}.drop_path{end}" for i in range(12) for end in ("", "_")]
    assert rates_of(model.trunk) == pytest.approx({name: 0.01 * i for i, name in enumerate(layers, start=1)})


def test_the_modules_that_a_backbone_has_are_set() -> None:
    backbone = build_backbone_outline(ModelConfig(name="efficientnet_b0", width=1.0, stem="standard"), 0)
    traced = fx.GraphModule(backbone, BackboneTracer().trace(backbone))
    names = list(rates_of(traced))
    assert max(rates_of(traced).values()) == pytest.approx(0.2 * 14 / 16), "torchvision's own"
    for rate in (0.45, 0.0):
        set_drop_path(traced, rate)
        assert list(rates_of(traced)) == names
        assert list(rates_of(traced).values()) == pytest.approx([rate * number / 9 for number in range(1, 10)])


def test_bad_rates() -> None:
    vgg = ModelConfig(name="vgg11_bn", width=0.125, drop_path=0.1)
    with pytest.raises(InputError, match=r"`model\.drop_path` should be auto or 0 here: .* no residual branches"):
        build_model(vgg, RoutingConfig(sigma=1.0), [2], 0, 64, outline=True)
    with pytest.raises(InputError, match=r"`model\.drop_path` should be auto, or at least 0 and below 1\. Got 1"):
        ModelConfig(drop_path=1.0)
