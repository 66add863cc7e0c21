"""`routing.routes` one with σ = 1 is the plain network with T heads: compared with plain torch code, in float64."""

import copy
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from helpers.network_outputs import gap
from matl_scale.data.loading.loader import ImageBatch
from matl_scale.data.shards.labels import Labels
from matl_scale.models.backbones import build_backbone
from matl_scale.models.config import ModelConfig
from matl_scale.models.network import build_model, normalise
from matl_scale.models.routing_config import Execution, RoutingConfig
from matl_scale.routes import Routes
from matl_scale.routing.batch_norm import RouteBatchNorm2d
from matl_scale.train.process_group import build_accelerator
from matl_scale.train.step.execution import TrunkExecution
from matl_scale.train.step.optim import OptimConfig, build_optimizer
from matl_scale.train.step.train_step import TrainStep

NUM_CLASSES, SIZE, BATCH, STEPS = (2, 5, 2, 3), 16, 12, 6
MODEL = ModelConfig(name="resnet18", width=0.125, stem="small")


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def make_data() -> tuple[list[torch.Tensor], np.ndarray, np.ndarray]:
    """Returns images by step, labels with a third missing, and the share of the images that carry each label."""
    generator = np.random.default_rng(0)
    images = [
        torch.from_numpy(generator.integers(0, 256, (BATCH, 3, SIZE, SIZE), dtype=np.uint8)) for _ in range(STEPS)
    ]
    labels = np.stack([generator.integers(0, count, STEPS * BATCH) for count in NUM_CLASSES], axis=1).astype(np.int8)
    labels[generator.random(labels.shape) < 0.3] = -1
    labels[labels.max(axis=1) < 0, 0] = 0
    return images, labels, (labels >= 0).mean(axis=0)


def train_plain(images: list[torch.Tensor], labels: np.ndarray, shares: np.ndarray) -> nn.Module:
    """Trains the network that anyone would write: one trunk, a linear layer per task, cross-entropy where there is a label."""
    trunk = build_backbone(MODEL, seed=0).double()
    for norm in trunk.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = None  # the plain average, with which ours begins too
    with torch.no_grad():
        num_features = trunk.eval()(torch.zeros(1, 3, SIZE, SIZE)).shape[1]
    heads = nn.ModuleList(nn.Linear(num_features, count) for count in NUM_CLASSES)
    for parameter in heads.parameters():
        nn.init.zeros_(parameter)
    model = nn.ModuleDict({"trunk": trunk, "heads": heads}).train()
    decaying = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    groups = [{"params": decaying, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.999))
    for step, batch in enumerate(images):
        features = trunk(normalise(batch))
        loss = torch.zeros(())
        for task, head in enumerate(heads):
            for sample in range(BATCH):
                label = int(labels[step * BATCH + sample, task])
                if label >= 0:
                    error = functional.cross_entropy(head(features[sample]), torch.tensor(label))
                    loss = loss + error / (BATCH * shares[task]) / len(heads)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


@pytest.mark.parametrize("execution", ["subnetwork", "masked"])
def test_one_route_with_all_units_is_the_plain_network_with_a_head_per_task(execution: Execution) -> None:
    images, labels, shares = make_data()
    plain = train_plain(images, labels, shares)
    accelerator = build_accelerator("fp32")
    routes = Routes.build(["all"], [0] * len(NUM_CLASSES))
    model = build_model(MODEL, RoutingConfig(sigma=1.0), NUM_CLASSES, 0, SIZE, routes).double()
    step = TrainStep(
        accelerator=accelerator,
        model=model,
        trunk=TrunkExecution(accelerator, model.trunk, execution),
        optimizer=accelerator.prepare_optimizer(build_optimizer(OptimConfig(lr=0.001, head_lr_scale=1), model)),
        labels=Labels.of_matrix(labels),
        label_shares=shares,
        seed=0,
    )
    for number, batch in enumerate(images):
        sample_ids = np.arange(number * BATCH, (number + 1) * BATCH)
        planned = ImageBatch(sample_ids=sample_ids, active_route=0, index=number, images=batch, valid=sample_ids >= 0)
        result = step(np.array([0]), iter([planned]))
        np.testing.assert_array_equal(result.sync.labels, (labels[sample_ids] >= 0).sum(axis=0))

    trunk = dict(plain["trunk"].named_parameters())
    for name, parameter in model.trunk.named_parameters():
        assert gap(parameter, trunk[name]) < 1e-9, name
    heads = plain["heads"]
    assert gap(model.heads[0].weight, torch.cat([head.weight for head in heads])) < 1e-9
    assert gap(model.heads[0].bias, torch.cat([head.bias for head in heads])) < 1e-9
    for name, norm in model.trunk.named_modules():
        if isinstance(norm, RouteBatchNorm2d):
            twin = plain["trunk"].get_submodule(name)
            assert gap(norm.running[0], torch.stack([twin.running_mean, twin.running_var])) < 1e-9, name
    with torch.no_grad():
        picture = normalise(copy.deepcopy(images[0]))
        features = plain.eval()["trunk"](picture)
        assert gap(model.eval()(picture, 0), torch.cat([head(features) for head in heads], dim=1)) < 1e-9
