"""How deep parameters lie in a trunk, counted in blocks."""

import re

import torch
from torch import nn

from matl_scale.models.backbones import build_backbone
from matl_scale.models.config import ModelConfig
from matl_scale.routing.blocks import number_blocks
from matl_scale.routing.surgery import route


def test_blocks_of_a_residual_network_are_its_residual_blocks() -> None:
    backbone = build_backbone(ModelConfig(name="resnet18", width=0.0625, stem="small"), 0)
    trunk = route(backbone, 2, 0.5)
    found = number_blocks(trunk)
    assert set(found) == {name for name, _ in trunk.named_parameters()}
    for name, number in found.items():
        block = re.match(r"layer(\d)\.(\d)\.", name)
        assert number == (2 * int(block[1]) - 1 + int(block[2]) if block else 0), name


class Scaled(nn.Module):
    """A residual block with a weight of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.scale = nn.Parameter(torch.ones(8, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.scale * self.layers(x)


class Chain(nn.Module):
    """A stem, blocks in two stages with a conv between them, and a norm at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.stages = nn.Sequential(nn.Sequential(Scaled(), Scaled()), nn.Conv2d(8, 8, 1), nn.Sequential(Scaled()))
        self.last = nn.BatchNorm2d(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.stages(self.norm(self.stem(x)))).mean((2, 3))


class Wrapped(nn.Module):
    """A module that holds all of another."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Chain()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x)


def test_layers_outside_of_blocks_count_and_norms_join_what_is_before_them() -> None:
    expected = {
        "stem": 0, "norm": 0, "stages.0.0": 1, "stages.0.1": 2, "stages.1": 3, "stages.2.0": 4, "last": 4,
    }  # fmt: skip
    for backbone, prefix in ((Chain(), ""), (Wrapped(), "model.")):
        trunk = route(backbone, 2, 0.5)
        for name, number in number_blocks(trunk).items():
            owner = next(module for module in expected if name.startswith(f"{prefix}{module}."))
            assert number == expected[owner], name
