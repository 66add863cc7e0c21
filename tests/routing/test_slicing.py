"""Slices of parameters: their memory format and their backward pass, when they are cut, and which layers have none."""

import copy
import math

import pytest
import torch
from torch import fx, nn
from torch.utils._python_dispatch import TorchDispatchMode

from helpers.network_outputs import gap, images_of
from helpers.torchvision_models import backbone_of
from matl_scale import InputError, route
from matl_scale.routing.slice_gradients import SliceGradients
from matl_scale.routing.subnetwork import Subnetwork
from matl_scale.train.step.execution import SharedSlices


def test_channels_last_is_kept_and_changes_nothing() -> None:
    trunk = route(backbone_of("resnet50", 0.25), 3, 0.5)
    wanted_trunk = copy.deepcopy(trunk)
    trunk.to(memory_format=torch.channels_last)
    subnetwork, route_id = Subnetwork(trunk), torch.tensor([1])
    weights = [tensor for tensor in subnetwork.gather(route_id) if tensor.ndim == 4]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)
    actual = subnetwork(images_of().to(memory_format=torch.channels_last), route_id)
    wanted = Subnetwork(wanted_trunk)(images_of(), route_id)
    assert gap(actual, wanted) < 1e-10
    actual.square().sum().backward()
    wanted.square().sum().backward()
    for parameter, other in zip(trunk.parameters(), wanted_trunk.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad, rtol=1e-8, atol=1e-8)
        assert parameter.grad.stride() == parameter.stride()


def test_the_backward_pass_does_not_sort() -> None:
    trunk = route(backbone_of("resnet18", 0.25), 3, 0.5)
    seen: set[str] = set()

    class Record(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            seen.add(func.overloadpacket.__name__)
            return func(*args, **(kwargs or {}))

    subnetwork, route_id = Subnetwork(trunk), torch.tensor([1])
    with Record():
        subnetwork(images_of(), route_id).sum().backward()
        slices = subnetwork.gather(route_id, gradients=SliceGradients())
        subnetwork(images_of(), route_id, slices).sum().backward()
    assert "index_copy_" in seen
    assert not [name for name in seen if "sort" in name or "unique" in name or "index_put" in name or "scatter" in name]


def test_slices_are_gathered_once_for_all_micro_steps_of_a_task() -> None:
    trunk = route(backbone_of("vgg11_bn", 0.25), 3, 0.5)
    subnetwork = Subnetwork(trunk)
    gathered: list[int] = []

    def gather(_: int, route_id: torch.Tensor) -> list[torch.Tensor]:
        gathered.append(int(route_id))
        return subnetwork.gather(route_id)

    routes = [1, 0, 1, 1, 2, 0]
    shared = SharedSlices(gather)
    shared.begin_step(routes)
    for i, route_id in enumerate(routes):
        index = torch.tensor([route_id])
        subnetwork(images_of() * (i + 1), index, shared.slices_of(route_id, index)).square().sum().backward()
    assert gathered == [1, 0, 2]
    actual = [parameter.grad for parameter in trunk.parameters()]
    trunk.zero_grad()
    for i, route_id in enumerate(routes):
        subnetwork(images_of() * (i + 1), torch.tensor([route_id])).square().sum().backward()
    for parameter, gradient in zip(trunk.parameters(), actual, strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-9, atol=1e-9)


def test_gradients_added_to_those_of_parameters_are_those_of_autograd_to_the_last_bit() -> None:
    trunk = route(backbone_of("vgg11_bn", 0.125), 3, 0.5)
    subnetwork, gradients = Subnetwork(trunk), SliceGradients()
    addresses = []
    # one micro-step; three, the last of which is autograd's, as with several ranks; then steps that follow changed gradients
    for step, routes in enumerate([[0], [1, 2, 1], [2], [0, 2]]):
        found = []
        for direct in (True, False):
            trunk.zero_grad()
            for i, route_id in enumerate(routes):
                gradients.active = i < 2
                slices = subnetwork.gather(torch.tensor([route_id]), gradients=gradients if direct else None)
                subnetwork(images_of() * (i + 1), torch.tensor([route_id]), slices).square().sum().backward()
            found.append([parameter.grad for parameter in trunk.parameters()])
        for actual, wanted in zip(*found, strict=True):
            assert torch.equal(actual, wanted)
        convs = [gradient for gradient in found[0] if gradient.ndim == 4]
        addresses.append([gradient.data_ptr() for gradient in convs])
        if step == 1:
            for gradient in convs:  # as clipping does where a loss was infinite
                gradient.mul_(math.nan)
    assert addresses[0] == addresses[2] == addresses[3]


class ScaledConv(nn.Conv2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * 2


class StandardisedConv(nn.Conv2d):
    def _conv_forward(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        return super()._conv_forward(x, weight - weight.mean(), bias)


def conv_net(conv: nn.Conv2d) -> fx.GraphModule:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), conv, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return route(net, 3, 0.5)


@pytest.mark.parametrize("mode", ["reflect", "circular", "zeros"])
def test_padding_modes(mode: str) -> None:
    trunk = conv_net(nn.Conv2d(8, 8, 3, padding=1, padding_mode=mode)).double()
    route_id = torch.tensor([1])
    assert gap(Subnetwork(trunk)(images_of(), route_id), trunk(images_of(), route_id)) < 1e-12


def test_what_cannot_be_sliced_is_refused_by_name() -> None:
    with pytest.raises(
        InputError, match=r"module `2`: ScaledConv has a forward of its own.*`routing.execution` = masked"
    ):
        Subnetwork(conv_net(ScaledConv(8, 8, 3)))
    standardised = conv_net(StandardisedConv(8, 8, 3))
    with pytest.raises(InputError, match="module `2`: StandardisedConv has a forward of its own"):
        Subnetwork(standardised)
    hooked = conv_net(nn.Conv2d(8, 8, 3))
    hooked.get_submodule("2").register_forward_hook(lambda *_: None)
    with pytest.raises(InputError, match="module `2`: it has hooks"):
        Subnetwork(hooked)
