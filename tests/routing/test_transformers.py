"""Vision transformers: routes keep whole heads and hidden units of MLPs, and the residual stream has no units."""

import copy
import re
from typing import Any

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils.flop_counter import FlopCounterMode

from helpers.equal_executions import check_equal_executions
from helpers.network_outputs import gap, images_of
from helpers.tiny_transformers import TRANSFORMERS, inactive_columns, tiny_swin, tiny_vit
from matl_scale import InputError, route
from matl_scale.deploy.export.dense import dense_network
from matl_scale.models.feature_layers import FIRST_LAYER, FeatureLayers, OnTrunk
from matl_scale.models.network import RoutedModel
from matl_scale.routing.all_routes import AllRoutes
from matl_scale.routing.attention import HeadAttention
from matl_scale.routing.blocks import number_blocks
from matl_scale.routing.cost import count_layers
from matl_scale.routing.heads import fit_sigma
from matl_scale.routing.masks import MaskSpec
from matl_scale.routing.move import check_movable, stream_masks
from matl_scale.routing.subnetwork import Subnetwork
from matl_scale.routing.surgery import route_by_spec
from matl_scale.routing.tracing import trace

BLOCK = "encoder.layers.encoder_layer_0"
HEADS, HIDDEN = f"{BLOCK}.self_attention", f"{BLOCK}.mlp.0"


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_sub_networks_equal_masked_execution(name: str) -> None:
    build, size = TRANSFORMERS[name]
    check_equal_executions(build(), size)


@pytest.mark.parametrize("name", ["vit", "swin", "swin v2"])
def test_a_traced_transformer_is_the_same_function_for_any_batch(name: str) -> None:
    build, size = TRANSFORMERS[name]
    net = build()
    traced = trace(net)
    assert traced.state_dict().keys() == net.state_dict().keys()
    for batch in (1, 3):
        assert gap(traced(images_of(size, batch)), net(images_of(size, batch))) < 1e-12
    with torch.no_grad():  # at another size, where windows take any
        if name != "vit":
            assert gap(traced(images_of(31, 2)), net(images_of(31, 2))) < 1e-12


@pytest.mark.parametrize("build", [tiny_vit, tiny_swin])
def test_a_route_is_the_network_in_which_nothing_reads_inactive_heads_and_hidden_units(build: Any) -> None:
    """torchvision's own network, with zeros in the columns of the layers that mix heads, and hidden units."""
    net, size = build(), 16
    trunk = route(net, 3, 0.5, seed=2)
    for route_id in range(3):
        plain = copy.deepcopy(net)
        with torch.no_grad():
            for key, router in trunk.routers.items():
                mixing = next(
                    module for name, module in plain.named_modules() if name.replace(".", "_") in following_names(key)
                )
                mixing.weight[:, inactive_columns(router.mask[route_id])] = 0
            assert gap(trunk(images_of(size), torch.tensor([route_id])), plain(images_of(size))) < 1e-12


def following_names(router: str) -> set[str]:
    """Returns what the layer may be called that reads the output of a router's layer."""
    block, last = re.fullmatch(r"(.*_)(heads|0)", router).groups()  # type: ignore[union-attr]
    return {block + name for name in (("out_proj", "proj") if last == "heads" else ("3",))}


def test_masks_are_drawn_over_heads_and_hidden_units_alone() -> None:
    trunk = route(tiny_vit(), 3, 0.5)
    masks = stream_masks(trunk)
    assert {name: mask.shape for name, mask in masks.items() if BLOCK in name} == {HEADS: (3, 4), HIDDEN: (3, 24)}
    assert [int(mask.sum()) for mask in masks[HEADS]] == [2, 2, 2]
    router = trunk.routers[f"{HEADS}.heads".replace(".", "_")]
    assert torch.equal(router.mask, masks[HEADS].repeat_interleave(4, dim=1))
    assert len(trunk.routers) == len(masks) == 4
    norms = [module for module in trunk.modules() if isinstance(module, nn.LayerNorm)]
    assert len(norms) == 5  # as before
    check_movable(trunk)


def test_inactive_heads_get_no_gradient() -> None:
    trunk = route(tiny_vit(), 2, 0.5)
    trunk(images_of(16), torch.tensor([0])).square().sum().backward()
    mask = stream_masks(trunk)[HEADS][0].repeat_interleave(4).repeat(3)
    attention = trunk.get_submodule(HEADS)
    assert not attention.in_proj_weight.grad[~mask].any()
    assert attention.in_proj_weight.grad[mask].any(dim=1).all()
    assert not attention.in_proj_bias.grad[~mask].any()


def test_routes_share_what_lies_before_the_first_routed_block() -> None:
    trunk = route(tiny_vit(), 3, 0.5, start="encoder.layers.encoder_layer_1").eval()
    assert len(trunk.routers) == 2
    all_routes, images = AllRoutes(trunk), images_of(16, 5)
    assert not any("encoder_layer_0" in str(node.target) for node in all_routes.dense.graph.nodes)
    some = torch.tensor([3, 0])
    with torch.no_grad():
        prepared = all_routes.prepare(images)
        assert all(len(tensor) == 5 for tensor in prepared)
        for route_id in torch.arange(3).split(1):
            found = all_routes([tensor[some] for tensor in prepared], route_id, all_routes.gather(route_id))
            assert gap(found, trunk(images[some], route_id)) < 1e-12


@pytest.mark.parametrize(("name", "settings"), [("vit", {"strategy": "partition"}), ("swin v2", {})])
def test_exported_tasks_answer_as_the_routed_network(name: str, settings: dict[str, Any]) -> None:
    build, size = TRANSFORMERS[name]
    images = images_of(size)
    trunk = route(build(), 2, 0.5, **settings)
    model = RoutedModel(trunk, [2, 3], trunk(images, torch.tensor([0])).shape[1]).double().eval()
    with torch.no_grad():
        for parameter in model.heads.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(0))
        for found, task_id in zip(dense_network(model, [0, 1])(images), (0, 1), strict=True):
            assert gap(found, model(images, task_id)) < 1e-12


def test_multiply_adds_are_those_that_torch_counts() -> None:
    net = trace(tiny_vit())  # torch counts nothing in its own attention
    trunk = route(net, 2, 0.5)
    model = RoutedModel(trunk, [2], 16).double().eval()
    costs = count_layers(trunk, 16)
    for network, counted in ((net.eval(), sum(layer.whole for layer in costs.layers)),
                             (dense_network(model, 0), 2 * 16 + sum(layer.active for layer in costs.layers))):  # fmt: skip
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network.to("meta")(images_of(16, 1).to("meta"))  # of fused attention, which runs on CPUs, it counts nothing
        assert counter.get_total_flops() == 2 * counted
    attention = next(layer for layer in costs.layers if layer.layer == f"{HEADS}.heads")
    assert (attention.whole, attention.active) == (2 * 17**2 * 16, 2 * 17**2 * 8)
    assert attention.training() == 3 * attention.active
    assert attention.training(["*"]) == attention.active


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"sigma": 0.6},
            rf"`routing.sigma` = 0.6 does not split the 4 heads of `{HEADS}`.*nearest σ that does.*is 0.5;",
        ),
        ({"sigma": 0.1}, r"`routing.sigma` = 0.1 does not split the 4 heads.*is 0.25;"),
        ({"sigma": 0.5, "sigmas": {"*encoder_layer_1*": 0.9}}, r"`routing.sigmas` = 0.9 does not split.*is 1;"),
    ],
)
def test_heads_that_do_not_split_are_refused_with_the_nearest_sigma(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        route(tiny_vit(), 3, **options)


def test_a_sigma_for_all_attention_layers_is_offered() -> None:
    """Of 2 and 4 heads; 0.75 would split the 4."""
    with pytest.raises(InputError, match=r"the 2 heads of `features.1.0.attn.qkv`.*is 0.5;"):
        route(tiny_swin(), 2, 0.74)
    assert fit_sigma(tiny_swin(), 0.8) == 0.5, "with 1, which is nearer, routes would have all heads"
    assert fit_sigma(tiny_vit(), 0.8) == 0.75
    assert fit_sigma(tiny_vit(), 0.5) == 0.5


def test_where_sigma_goes_with_depth_heads_are_rounded() -> None:
    masks = stream_masks(route(tiny_vit(), 2, 1.0, sigma_last=0.3))
    assert [int(mask[0].sum()) for name, mask in masks.items() if name.endswith("attention")] == [4, 2]


def test_a_multiple_of_channels_is_one_of_heads_where_they_have_so_many() -> None:
    masks = stream_masks(route(tiny_vit(), 2, 0.5, align=8))  # heads of 4 channels
    assert {int(mask[0].sum()) for mask in masks.values()} == {2, 16}
    assert int(stream_masks(route(tiny_vit(), 2, 0.25, align=8))[HEADS][0].sum()) == 2


def test_rates_fall_from_block_to_block() -> None:
    blocks = number_blocks(route(tiny_vit(), 2, 0.5))
    names = ("conv_proj.weight", f"{HEADS}.in_proj_weight", "encoder.layers.encoder_layer_1.mlp.0.weight")
    order = [blocks[name] for name in names]
    assert order == sorted(set(order))
    assert blocks[f"{HEADS}.in_proj_weight"] == blocks[f"{HEADS}.out_proj.weight"] == blocks[f"{HIDDEN}.weight"]


def test_attention_of_other_tokens_is_refused_by_name() -> None:
    class Crossed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.image_size = 8
            self.patches = nn.Conv2d(3, 8, 4, 4)
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            tokens = self.patches(x).flatten(2).transpose(1, 2)
            mixed: torch.Tensor = self.attention(tokens, tokens + 1, tokens)[0]
            return mixed.mean(dim=1)

    with pytest.raises(InputError, match=r"module `attention`.*attention of tokens to themselves"):
        route(Crossed(), 2, 0.5)


def test_heads_are_attention_by_the_book() -> None:
    qkv = torch.randn(2, 5, 3 * 2 * 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = HeadAttention(head_dim=4)(qkv)
    for head in range(2):
        query, key, value = (qkv[..., part * 8 + head * 4 : part * 8 + head * 4 + 4] for part in range(3))
        weights = torch.softmax(query @ key.mT / 2, dim=-1)
        assert gap(found[..., head * 4 : head * 4 + 4], weights @ value) < 1e-12


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # raised by dynamo itself,
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # and this
def test_all_routes_share_one_compiled_graph() -> None:
    trunk = route(tiny_vit(num_layers=1).float(), 3, 0.5)
    subnetwork, counter = Subnetwork(trunk), CompileCounterWithBackend("aot_eager")
    network = torch.compile(subnetwork, backend=counter, fullgraph=True)
    images = torch.randn(4, 3, 16, 16)
    for route_id in torch.arange(3).split(1):
        features = network(images, route_id, subnetwork.gather(route_id))
        features.square().sum().backward()
        assert gap(features, trunk(images, route_id)) < 1e-5
    assert counter.frame_count == 1


@pytest.mark.parametrize("name", ["vit", "swin", "timm, registers"])
def test_layers_on_features_are_routed_behind_a_transformer_that_is_not(name: str) -> None:
    """As they are when they are trained on its features alone, with the same names."""
    build, size = TRANSFORMERS[name]
    trunk = build()
    images = images_of(size, 3)
    features = trunk.eval()(images)
    layers = FeatureLayers(features.shape[1], [8, 6]).double()
    spec = MaskSpec(num_routes=2, sigma=0.5, seed=1, start=FIRST_LAYER)
    alone = route_by_spec(layers, spec, "route", input_shape=features.shape[1:]).eval()
    together = route_by_spec(OnTrunk(trunk, layers), spec, "route").eval()
    assert list(together.routers._modules) == list(alone.routers._modules) == ["hidden_0_1", "hidden_1_1"]
    for route_id in range(2):
        route_ids = torch.tensor([route_id])
        assert gap(together(images, route_ids), alone(features, route_ids)) < 1e-12
