"""Convs with weights in oneDNN's layout give what plain ones give, where that layout is used at all."""

from contextlib import nullcontext

import pytest
import torch

from helpers.network_outputs import gap
from helpers.torchvision_models import backbone_of
from matl_scale import route
from matl_scale.routing.all_routes import AllRoutes
from matl_scale.routing.packing import PackedWeight, can_pack

ROUTES = torch.arange(2)[:, None]
with torch.no_grad():
    CAN_PACK = can_pack(torch.zeros(1, dtype=torch.float32))


def build(dtype: torch.dtype) -> AllRoutes:
    return AllRoutes(route(backbone_of("resnet18", 0.25), len(ROUTES), 0.5).to(dtype).eval())


@pytest.mark.skipif(not CAN_PACK, reason="needs oneDNN")
def test_packed_weights_give_the_same_for_images_of_any_size_and_number() -> None:
    all_routes = build(torch.float32)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        common, slices = all_routes.gather_common(), [all_routes.gather(route_id) for route_id in ROUTES]
        assert any(isinstance(each, PackedWeight) for each in common)
        assert any(isinstance(each, PackedWeight) for each in slices[0])
        for batch, size in ((2, 40), (1, 72), (3, 40)):
            images = torch.randn(batch, 3, size, size, generator=generator, dtype=torch.float32)
            prepared = all_routes.prepare(images, common)
            for route_id, of_route in zip(ROUTES, slices, strict=True):
                wanted = all_routes.trunk(images, route_id)
                assert gap(all_routes(prepared, route_id, of_route), wanted) < 1e-5


@pytest.mark.parametrize(
    ("dtype", "context"),
    [
        (torch.float64, nullcontext()),
        (torch.float32, torch.enable_grad()),
        (torch.float32, torch.autocast("cpu", torch.bfloat16)),
    ],
)
@torch.no_grad()
def test_other_weights_stay_plain(dtype: torch.dtype, context: torch.enable_grad) -> None:
    all_routes = build(dtype)
    with context:
        assert all(isinstance(each, torch.Tensor) for each in all_routes.gather(ROUTES[0]))
