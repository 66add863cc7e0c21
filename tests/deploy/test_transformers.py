"""Exported transformers: files in every format, and hub folders."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from helpers.exported_networks import DESCRIPTION
from helpers.network_outputs import gap, images_of
from helpers.tiny_transformers import TRANSFORMERS
from matl_scale import route
from matl_scale.deploy.export.dense import dense_network
from matl_scale.deploy.export.formats import open_exported, write_network
from matl_scale.deploy.hub.build_trunk import build_trunk
from matl_scale.deploy.hub.describe_trunk import describe_trunk
from matl_scale.models.network import RoutedModel
from matl_scale.routing.all_routes import AllRoutes


def on_two_routes(name: str) -> RoutedModel:
    build, size = TRANSFORMERS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        trunk = route(build(), 2, 0.5)
        return RoutedModel(trunk, [2, 3], trunk(images_of(size), torch.tensor([0])).shape[1]).double().eval()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("timm, registers", "safetensors"), ("swin", "safetensors"), ("swin v2", "safetensors"),
        *(pytest.param(name, kind, marks=pytest.mark.slow) for kind in ("onnx", "torch.export") for name in ("vit", "swin v2")),
    ],
)  # fmt: skip
def test_files_give_the_same_logits_for_any_number_of_images(name: str, kind: str, tmp_path: Path) -> None:
    model, size = on_two_routes(name).float(), TRANSFORMERS[name][1]
    path = write_network(
        dense_network(model, 1), replace(DESCRIPTION, image_size=size), tmp_path / "file", kind  # type: ignore[arg-type]
    )  # fmt: skip
    network = open_exported(path)
    for batch in (1, 5):
        assert gap(network(images_of(size, batch).float()), model(images_of(size, batch).float(), 1)) < 1e-5


@pytest.mark.parametrize("name", ["vit", "swin", "swin v2", "timm, registers"])
def test_a_trunk_is_built_again_from_its_description(name: str) -> None:
    model, size = on_two_routes(name), TRANSFORMERS[name][1]
    trunk = describe_trunk(model.trunk)
    described = json.loads(json.dumps({"nodes": trunk.nodes, "layers": trunk.layers}))
    state = model.trunk.state_dict()
    again = build_trunk(described["nodes"], described["layers"], trunk.units, state).double().eval()
    again.load_state_dict(state)
    images, route_id = images_of(size), torch.tensor([1])
    with torch.no_grad():
        wanted = model.trunk(images, route_id)
        assert torch.equal(again(images, route_id), wanted)
        all_routes = AllRoutes(again)
        assert gap(all_routes(all_routes.prepare(images), route_id, all_routes.gather(route_id)), wanted) < 1e-12
