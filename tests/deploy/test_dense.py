"""The dense network of a task gives the routed network's logits, and shares nothing with it."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from helpers.exported_networks import CLASSES, DESCRIPTION, LARGE, SIZE, SMALL, routed
from helpers.network_outputs import gap, images_of
from matl_scale import InputError, route
from matl_scale.deploy.export.dense import dense_network
from matl_scale.deploy.export.formats import open_exported, write_network
from matl_scale.models.network import RoutedModel
from matl_scale.routing.affine import Affine
from matl_scale.routing.batch_norm import Statistics
from matl_scale.routing.router import TaskRouter

SETTINGS: list[tuple[float, Statistics]] = [(0.25, "task"), (0.5, "shared"), (1.0, "task")]
CASES = [
    *((name, *setting, "shared") for name in SMALL for setting in SETTINGS),
    *((name, 0.5, "task", "shared") for name in LARGE),
    *((name, 0.5, "task", "route") for name in ("resnet18", "resnext", "group norm", "convnext")),
]


@pytest.mark.parametrize(("name", "sigma", "statistics", "affine"), CASES)
def test_logits_are_those_of_masked_execution(
    name: str, sigma: float, statistics: Statistics, affine: Affine, tmp_path: Path
) -> None:
    model = routed(name, sigma, statistics, affine)
    before = copy.deepcopy(model.state_dict())
    dense, wanted = dense_network(model, 1), model(images_of(SIZE), 1)
    assert gap(dense(images_of(SIZE)), wanted) < 1e-10
    assert not any(isinstance(module, TaskRouter) for module in dense.modules())
    assert sum(p.numel() for p in dense.parameters()) < sum(p.numel() for p in model.parameters())
    theirs = {tensor.data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    assert theirs.isdisjoint(tensor.data_ptr() for tensor in (*dense.parameters(), *dense.buffers()))
    path = write_network(dense, DESCRIPTION, tmp_path / "file", "safetensors")
    assert gap(open_exported(path)(images_of(SIZE)), wanted) < 1e-10
    assert "matl_scale" not in path.with_suffix(".py").read_text()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_names_that_are_none_in_python_are_changed() -> None:
    names = {
        "stem": nn.Conv2d(3, 8, 3),
        "head": nn.Conv2d(8, 8, 3),
        "0": nn.ReLU(),
        "pool": nn.AdaptiveAvgPool2d(1),
    }
    net = nn.Sequential()
    for name, module in (names | {"training_": nn.Flatten()}).items():
        net.add_module(name, module)
    model = RoutedModel(route(net, 3, 0.5), CLASSES, 8).eval()
    dense = dense_network(model, 1)
    assert [name for name, _ in dense.named_children()] == [
        "stem",
        "head",
        "layer_0",
        "pool",
        "training_",
        "head_",
    ]
    assert gap(dense(images_of(SIZE).float()), model(images_of(SIZE).float(), 1)) < 1e-5


def test_a_task_that_does_not_exist_is_refused() -> None:
    with pytest.raises(InputError, match=r"`task_id` should be 0 to 2\. Got 3"):
        dense_network(routed("flat"), 3)
