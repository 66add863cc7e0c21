"""Stacked slots compute what each slot alone computes: features, gradients, and changes of norm statistics."""

import copy
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from helpers.network_outputs import gap
from helpers.torchvision_models import backbone_of, group_norm_resnet, small_convnext
from matl_scale import InputError, route
from matl_scale.routing.affine import RouteAffine, initial_affine
from matl_scale.routing.batch_norm import route_norms
from matl_scale.routing.stacked import StackedSubnetworks, without_idle_taps
from matl_scale.routing.subnetwork import Subnetwork

ROUTES = [3, 1, 3, 0]  # one of them twice
CASES: list[tuple[str, dict[str, Any]]] = [
    ("vgg11", {}),
    ("vgg11_bn", {"statistics": "shared"}),
    ("vgg11_bn", {"sigma": 1.0}),
    ("resnet18", {}),
    ("resnet18", {"start": "layer3", "affine": "route"}),
    ("mobilenet_v3_small", {}),
]


def images_of_slots() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(3, 3, 32, 32, dtype=torch.float64, generator=generator) for _ in ROUTES]


@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_features_gradients_and_statistics_are_those_of_single_slots(name: str, options: dict[str, Any]) -> None:
    width = 1 if name == "mobilenet_v3_small" else 0.125
    single = route(backbone_of(name, width), 5, **({"sigma": 0.5, "seed": 1} | options))
    together = copy.deepcopy(single)
    initial = initial_affine(single)
    affine = [RouteAffine(initial, 5).double() if initial else None for _ in range(2)]
    images = images_of_slots()

    subnetwork, wanted = Subnetwork(single), []
    changes: list[torch.Tensor] = [torch.zeros(()) for _ in single.buffers()]
    for batch, route_id in zip(images, ROUTES, strict=True):
        before = [buffer.clone() for buffer in single.buffers()]
        own = None if affine[0] is None else affine[0].of(route_id)
        wanted.append(subnetwork(batch, torch.tensor([route_id]), affine=own))
        for number, (old, buffer) in enumerate(zip(before, single.buffers(), strict=True)):
            changes[number] = changes[number] + (buffer.double() - old.double())
            buffer.copy_(old)

    stacked, routes = StackedSubnetworks(Subnetwork(together)), torch.tensor(ROUTES)
    before = [buffer.clone() for buffer in together.buffers()]
    slices = stacked.gather(routes, [None if affine[1] is None else affine[1].of(route_id) for route_id in ROUTES])
    actual = stacked(images, routes, slices)
    for found, expected in zip(actual, wanted, strict=True):
        assert gap(found, expected) < 1e-10
    for (key, buffer), old, change in zip(together.named_buffers(), before, changes, strict=True):
        assert gap(buffer.double() - old.double(), change) < 1e-10, key

    for features in (wanted, actual):
        torch.stack([(number + 1) * part.square().sum() for number, part in enumerate(features)]).sum().backward()
    owners = [
        nn.ModuleList([each for each in pair if each is not None])
        for pair in zip((single, together), affine, strict=True)
    ]
    scale = max(float(parameter.grad.abs().max()) for parameter in single.parameters())
    for (key, parameter), other in zip(owners[0].named_parameters(), owners[1].parameters(), strict=True):
        assert (parameter.grad is None) == (other.grad is None), key
        if parameter.grad is not None:
            assert float((parameter.grad - other.grad).abs().max()) < 1e-10 * max(scale, 1), key


@pytest.mark.parametrize(
    ("backbone", "named"),
    [
        (group_norm_resnet, "norms"),
        (small_convnext, "norms"),
        (lambda: backbone_of("densenet121", 0.25), "cat"),
        (lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.Dropout(0.5), nn.Conv2d(8, 8, 3), nn.Flatten()).double(), "_1"),
    ],
    ids=["group norm", "layer norm", "concatenation", "dropout"],
)
def test_layers_that_mix_slots_are_refused_by_name(backbone: Callable[[], nn.Module], named: str) -> None:
    subnetwork = Subnetwork(route(backbone(), 3, 0.5))
    with pytest.raises(InputError, match=rf"`\w*{named}\w*` mixes channels or draws random numbers"):
        StackedSubnetworks(subnetwork)


def test_stacked_slots_follow_masks_that_move() -> None:
    trunk = route(backbone_of("vgg11_bn", 0.125), 5, 0.5)
    subnetwork, routes = Subnetwork(trunk), torch.tensor(ROUTES)
    stacked, images = StackedSubnetworks(subnetwork), images_of_slots()
    for name, buffer in trunk.named_buffers():
        if name.endswith("mask") or name.endswith("active"):
            buffer.copy_(buffer.flip(0))
    subnetwork.follow_masks()
    found = stacked(images, routes, stacked.gather(routes, [None] * len(ROUTES)))
    for norm in route_norms(trunk):
        norm.num_updates.zero_()
    for part, batch, route_id in zip(found, images, ROUTES, strict=True):
        assert gap(part, trunk(batch, torch.tensor([route_id]))) < 1e-10


def test_convs_without_taps_that_meet_only_padding_are_the_same() -> None:
    num_cut = 0
    for size, taps, step, pad, dilation in itertools.product(range(1, 6), range(1, 8), (1, 2, 3), range(4), (1, 2)):
        if size + 2 * pad < dilation * (taps - 1) + 1:
            continue  # the kernel does not fit
        images, weight = torch.randn(1, 1, size, size).double(), torch.randn(1, 1, taps, taps).double()
        whole: dict[str, Any] = {"stride": (step, step), "padding": (pad, pad), "dilation": (dilation, dilation)}
        part, padding = without_idle_taps(images, weight, **whole)
        wanted = nn.functional.conv2d(images, weight, **whole)
        actual = nn.functional.conv2d(images, part, **(whole | {"padding": padding}))
        assert gap(actual, wanted) < 1e-10, (size, taps, step, pad, dilation)
        num_cut += part.shape != weight.shape
    assert num_cut > 50
