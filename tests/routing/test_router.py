"""The task routing layer by itself."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from helpers.torchvision_models import backbone_of
from matl_scale import MaskSpec, TaskRouter, draw_masks, route


def build(num_routes: int = 5, num_channels: int = 8) -> TaskRouter:
    return TaskRouter(draw_masks(MaskSpec(num_routes=num_routes, sigma=0.5), num_channels, "x"))


def test_units_that_are_off_are_zero_and_get_zero_gradient_before_silu() -> None:
    router = build()
    x = torch.randn(3, 8, 4, 4, requires_grad=True)
    for route_id in range(5):
        x.grad = None
        y = router(x, torch.tensor([route_id]))
        # silu has a gradient at zero, so a layer that only zeroes values would let it through
        functional.silu(y).sum().backward()
        off = ~router.mask[route_id]
        assert torch.equal(y[:, ~off], x[:, ~off])
        assert not y[:, off].any()
        assert x.grad is not None
        assert not x.grad[:, off].any()
        assert x.grad[:, ~off].all()


def test_mixed_batch_equals_one_task_at_a_time() -> None:
    router = build()
    x, routes = torch.randn(6, 8, 3), torch.tensor([0, 4, 2, 2, 1, 3])
    mixed = router(x, routes)
    for i, route_id in enumerate(routes):
        assert torch.equal(mixed[i : i + 1], router(x[i : i + 1], route_id[None]))


def test_mask_is_a_buffer_and_input_is_untouched() -> None:
    router = build()
    assert not list(router.parameters())
    assert "mask" in router.state_dict()
    x = torch.ones(1, 8)
    router(x, torch.tensor([0]))
    assert torch.equal(x, torch.ones(1, 8))
    assert isinstance(router, nn.Module)


def test_weights_of_a_network_with_other_masks_are_refused() -> None:
    trunk = route(backbone_of("vgg11", 0.25), 3, 0.5, seed=1)
    with pytest.raises(RuntimeError, match="mask differs: use the routes, σ and seed"):
        trunk.load_state_dict(route(backbone_of("vgg11", 0.25), 3, 0.5, seed=2).state_dict())
