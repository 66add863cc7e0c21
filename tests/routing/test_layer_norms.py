"""Norms that mix channels, restricted to a route's units. That they compute the same is tested with whole networks."""

import torch

from helpers.network_outputs import gap
from helpers.torchvision_models import group_norm_resnet
from matl_scale import route


def test_a_group_norm_keeps_float32_under_autocast() -> None:
    trunk = route(group_norm_resnet().float(), 3, 0.5)
    norm = trunk.get_submodule("bn1")
    x, route_id = torch.randn(2, 64, 64, 64) * 30 + 100, torch.tensor([1])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = norm(x, route_id)
    assert gap(rounded, norm(x, route_id)) < 1e-5
