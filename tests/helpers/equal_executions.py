"""Three optimizer steps and an evaluation, masked and by sub-networks, side by side."""

import copy

import torch
from torch import nn

from helpers.network_outputs import gap, images_of
from matl_scale import route
from matl_scale.routing.all_routes import AllRoutes
from matl_scale.routing.subnetwork import Subnetwork


def check_equal_executions(backbone: nn.Module, image_size: int) -> None:
    """Asserts that both give the same features, gradients and weights, in float64."""
    masked = route(backbone, 3, 0.5, seed=1)
    owner = copy.deepcopy(masked)
    subnetwork, images = Subnetwork(owner), images_of(image_size, batch=2)
    runs = [(masked, masked), (owner, subnetwork)]
    optimizers = [torch.optim.SGD(network.parameters(), lr=1e-4, momentum=0.9) for network, _ in runs]
    for step in range(3):
        features = []
        for (network, run), optimizer in zip(runs, optimizers, strict=True):
            optimizer.zero_grad()
            features.append(run(images, torch.tensor([step])))
            features[-1].square().mean().backward()
            # exploding gradients would magnify rounding errors without limit
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        assert gap(features[1], features[0]) < 1e-10
        for (key, parameter), other in zip(masked.named_parameters(), owner.parameters(), strict=True):
            assert gap(other.grad, parameter.grad) < 1e-10, key
        for optimizer in optimizers:
            optimizer.step()
    for (key, value), other in zip(masked.state_dict().items(), owner.state_dict().values(), strict=True):
        assert gap(other.double(), value.double()) < 1e-10, key
    masked.eval()
    owner.eval()
    all_routes, route_id = AllRoutes(owner), torch.tensor([1])
    with torch.no_grad():
        wanted = masked(images, route_id)
        assert gap(subnetwork(images, route_id), wanted) < 1e-10
        prepared = all_routes.prepare(images)
        assert gap(all_routes(prepared, route_id, all_routes.gather(route_id)), wanted) < 1e-10
