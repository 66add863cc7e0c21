"""Per-route batch norm: whose statistics change, and to what."""

import pytest
import torch
from torch import nn

from matl_scale.routing.batch_norm import RouteBatchNorm2d

ALL = torch.arange(4).repeat(3, 1)  # three routes with all of four channels active


def test_only_the_active_task_is_updated() -> None:
    norm = RouteBatchNorm2d(nn.BatchNorm2d(4), ALL[:3])
    before = norm.running[:, 0].clone()
    norm(torch.randn(8, 4, 2, 2) + 5, torch.tensor([1]))
    assert torch.equal(norm.running[[0, 2], 0], before[[0, 2]])
    assert (norm.running[1, 0] > 3).all()


def test_statistics_begin_as_the_average_and_continue_as_a_moving_average() -> None:
    norm = RouteBatchNorm2d(nn.BatchNorm2d(4, momentum=0.25), ALL[:2])
    average = nn.BatchNorm2d(4, momentum=None)  # torch's cumulative average
    batches = [torch.randn(6, 4, 3, 3) * (i + 1) + i for i in range(7)]
    for batch in batches[:4]:
        norm(batch, torch.tensor([1]))
        average(batch)
    torch.testing.assert_close(norm.running[1, 0], average.running_mean)
    torch.testing.assert_close(norm.running[1, 1], average.running_var)
    average.momentum = 0.25
    for batch in batches[4:]:
        norm(batch, torch.tensor([1]))
        average(batch)
    torch.testing.assert_close(norm.running[1, 0], average.running_mean)
    torch.testing.assert_close(norm.running[1, 1], average.running_var)


def test_shared_statistics_have_one_row_for_all_routes() -> None:
    norm = RouteBatchNorm2d(nn.BatchNorm2d(4), ALL[:3], statistics="shared")
    norm(torch.randn(8, 4, 2, 2) + 5, torch.tensor([2]))
    x = torch.randn(2, 4, 2, 2)
    norm.eval()
    assert torch.equal(norm(x, torch.tensor([0])), norm(x, torch.tensor([2])))


def test_pretrained_statistics_and_weights_are_used() -> None:
    original = nn.BatchNorm2d(4)
    original(torch.randn(8, 4, 2, 2) * 3 + 1)
    norm = RouteBatchNorm2d(original, ALL[:2]).eval()
    x = torch.randn(2, 4, 2, 2)
    assert torch.equal(norm(x, torch.tensor([1])), original.eval()(x))
    assert norm.weight is original.weight


def test_mixed_batch_cannot_train() -> None:
    norm = RouteBatchNorm2d(nn.BatchNorm2d(4), ALL[:2])
    with pytest.raises(RuntimeError, match="batch of several routes"):
        norm(torch.randn(2, 4, 2, 2), torch.tensor([0, 1]))


def test_images_of_several_routes_train_the_statistics_of_a_step_as_one_batch() -> None:
    norm = RouteBatchNorm2d(nn.BatchNorm2d(4), ALL[:3], statistics="step").double()
    plain = nn.BatchNorm2d(4, momentum=None).double()
    x = torch.randn(6, 4, 3, 3, dtype=torch.float64) * 3 + 1
    torch.testing.assert_close(norm(x, torch.tensor([0, 0, 1, 2, 2, 2])), plain(x))
    torch.testing.assert_close(norm.running[0], torch.stack([plain.running_mean, plain.running_var]))
    assert norm.num_updates.tolist() == [[1.0] * 4]
    assert norm.statistics == "shared", "in evaluation they are those of all routes"
