"""How training weighs the heads of a transformer, and counts what a pass costs."""

from dataclasses import replace

import numpy as np
import torch

from helpers.network_outputs import gap, images_of
from helpers.tiny_transformers import tiny_timm_config, tiny_vit
from matl_scale import route
from matl_scale.models.network import RoutedModel
from matl_scale.models.pass_cost import measure_pass
from matl_scale.models.routing_config import RoutingConfig
from matl_scale.routing.attention import HeadAttention
from matl_scale.train.masks.importance import UnitImportance


def test_the_importance_of_a_head_is_that_of_a_gate_behind_it() -> None:
    """|∂L/∂z| at z = 1, where z multiplies what the head returns: |Σ y·∂L/∂y|."""
    model = RoutedModel(route(tiny_vit(), 2, 0.5, strategy="magnitude"), [2, 2], 16).double()
    importance, returned = UnitImportance(model), {}

    def keep(name: str, output: torch.Tensor) -> None:
        output.retain_grad()
        returned[name] = output

    for name, module in model.trunk.named_modules():
        if isinstance(module, HeadAttention):
            module.register_forward_hook(lambda *call, name=name: keep(name.replace(".", "_"), call[2]))
    importance.begin_slot()
    with torch.no_grad():
        model.heads[0].weight.copy_(torch.arange(32.0).view(2, 16))
    model(images_of(16), 0).square().sum().backward()
    importance.end_slot(0, 1.0)
    sums, columns = importance.changes[0], importance._units
    assert len(returned) == 2
    for router, output in returned.items():
        assert output.grad is not None
        gates = (output.detach() * output.grad).sum(dim=(0, 1)).view(4, 4).sum(dim=1).abs()
        found = sums[columns[router]].view(4, 4)
        assert gap(found, gates[:, None].expand(-1, 4)) < 1e-9


def test_a_pass_costs_about_sigma_of_a_transformer() -> None:
    routing = RoutingConfig(sigma=0.5)
    cost = measure_pass(tiny_timm_config(), routing, 3, seed=0, image_size=16)
    assert 0.5 < cost < 0.6  # patches are not routed
    later = replace(routing, start="blocks.1")
    np.testing.assert_allclose(measure_pass(tiny_timm_config(), later, 3, 0, 16), (1 + cost) / 2, rtol=0.05)
