"""The heads that a run starts with: biases by class frequencies, and when weights are random."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.run_configs import build_config
from helpers.shard_sets import ShardSet
from matl_scale.data.loading.config import DataConfig
from matl_scale.models.network import RoutedModel
from matl_scale.models.routing_config import RoutingConfig
from matl_scale.train.config import Config
from matl_scale.train.loop import Hooks, Run
from matl_scale.train.losses.class_weights import ClassShares, adjustment_of_logits, initial_logits, normalise_weights
from matl_scale.train.process_group import build_accelerator
from matl_scale.train.run import train
from matl_scale.train.run_data import build_run_data

COUNTS = np.array([70, 20, 10])


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("raw", [[1.0, 1.0, 1.0], [1.0, 4.0, 2.0]])
@pytest.mark.parametrize("tau", [0.0, 1.0, 0.5])
def test_no_other_constant_logits_have_a_smaller_loss(smoothing: float, raw: list[float], tau: float) -> None:
    shares = ClassShares(counts=COUNTS, drawn=np.sqrt(COUNTS) / np.sqrt(COUNTS).sum())  # as `data.balance` 0.5 draws
    weights = normalise_weights(np.array(raw), shares.drawn)
    adjustment = adjustment_of_logits(shares, weights, tau)
    found = initial_logits(shares, weights, adjustment, smoothing)
    logits = torch.from_numpy(found).requires_grad_()
    targets = (1 - smoothing) * torch.eye(3, dtype=torch.float64) + smoothing / 3
    log_p = (logits + torch.from_numpy(adjustment)).log_softmax(dim=0)
    loss = (torch.from_numpy(shares.drawn * weights) * -(targets @ log_p)).sum()
    (gradient,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-12)


def test_classes_without_samples_and_tasks_without_labels_have_finite_logits() -> None:
    counts = np.array([99, 0])
    found = initial_logits(ClassShares(counts, counts / 99), None, None, 0.0)
    np.testing.assert_allclose(found[1] - found[0], np.log(1 / 99))
    nothing = np.zeros(2)
    assert not initial_logits(ClassShares(nothing, nothing), None, None, 0.0).any()


class Started(Exception):
    """Ends a run before its first step."""


def network_before_training(config: Config) -> RoutedModel:
    kept: list[RoutedModel] = []

    def end(run: Run) -> None:
        kept.append(run.state.model)
        raise Started

    with pytest.raises(Started):
        train(config, build_accelerator("fp32"), hooks=Hooks(before_step=end))
    return kept[0]


def test_a_run_starts_with_the_frequencies_of_its_classes(small_set: ShardSet, tmp_path: Path) -> None:
    one = RoutingConfig(routes="one", sigma=1.0)
    model = network_before_training(build_config(tmp_path, small_set, "one", routing=one))
    data = build_run_data(DataConfig(path=str(small_set.root), image_size=0, workers=0))
    labels = data.labels_of("train")
    biases = model.heads[0].bias.split(model.num_classes)
    for task_id, (found, size) in enumerate(zip(biases, model.num_classes, strict=True)):
        counts = torch.from_numpy(labels.count_classes(task_id, size)).float()
        assert counts.min() > 0
        torch.testing.assert_close(found.softmax(dim=0), counts / counts.sum())
    # every step trains this head, and the trunk is new
    bound = model.heads[0].in_features ** -0.5
    assert 0.9 * bound < float(model.heads[0].weight.detach().abs().max()) <= bound


@pytest.mark.parametrize(("accumulate", "is_random"), [(1, False), (6, True)])
def test_heads_that_are_trained_in_every_step_start_at_random(
    accumulate: int, is_random: bool, small_set: ShardSet, tmp_path: Path
) -> None:
    task = RoutingConfig(routes="task", sigma=0.5)
    config = build_config(tmp_path, small_set, "task", routing=task)
    model = network_before_training(replace(config, train=replace(config.train, accumulate=accumulate)))
    assert model.routes.num_routes == 6
    assert all(bool(head.weight.any()) == is_random for head in model.heads)
    assert not is_random or not torch.equal(model.heads[0].weight, model.heads[1].weight)
    assert all(head.bias.any() for head in model.heads)
