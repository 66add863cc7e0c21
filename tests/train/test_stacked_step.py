"""Steps with stacked slots train the same network as steps with one slot after the other."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers.network_outputs import gap
from matl_scale import InputError
from matl_scale.data.loading.loader import ImageBatch
from matl_scale.data.shards.labels import Labels
from matl_scale.data.shards.reader import Damage
from matl_scale.models.config import ModelConfig
from matl_scale.models.network import RoutedModel, build_model
from matl_scale.models.routing_config import RoutingConfig
from matl_scale.routes import Routes
from matl_scale.train.choose_slots import check_slots, choose_slots
from matl_scale.train.config import Config, with_settings
from matl_scale.train.process_group import build_accelerator
from matl_scale.train.step.execution import Slots, TrunkExecution
from matl_scale.train.step.optim import OptimConfig, build_optimizer
from matl_scale.train.step.train_step import StepResult, TrainStep

MODEL = ModelConfig(name="resnet18", width=0.125, stem="small")
SIZE, BATCH, NUM_TASKS, NUM_STEPS = 16, 6, 6, 3
ROUTES = np.array([0, 1, 2, 1, 3, 3])  # of a step: two of them twice


def train(slots: Slots) -> tuple[RoutedModel, list[StepResult], int]:
    """Trains with batches of which one has a damaged sample, and one no label; returns also the number of passes."""
    generator = np.random.default_rng(0)
    num_batches = NUM_STEPS * len(ROUTES)
    images = torch.from_numpy(generator.integers(0, 256, (num_batches, BATCH, 3, SIZE, SIZE), dtype=np.uint8))
    labels = generator.integers(-1, 2, (num_batches * BATCH, NUM_TASKS))
    labels[:, :4] = labels[:, :4].clip(0)  # so that every sample has a label of its route
    labels[3 * BATCH : 4 * BATCH] = -1
    accelerator = build_accelerator("fp32")
    routing = RoutingConfig(sigma=0.5, start="layer2", affine="route")
    routes = Routes.build([f"r{i}" for i in range(4)], [0, 1, 2, 3, 0, 1])
    model = build_model(MODEL, routing, [2] * NUM_TASKS, 0, SIZE, routes).double()
    trunk = TrunkExecution(accelerator, model.trunk, "subnetwork", affine=model.affine, slots=slots)
    step = TrainStep(
        accelerator=accelerator,
        model=model,
        trunk=trunk,
        optimizer=accelerator.prepare_optimizer(build_optimizer(OptimConfig(lr=1e-3, head_lr_scale=1.0), model)),
        labels=Labels.of_matrix(labels),
        label_shares=np.full(NUM_TASKS, 0.8),
        seed=0,
        accumulate=len(ROUTES),
        clip_norm=1.0,
    )
    passes: list[int] = []
    trunk.module.register_forward_hook(lambda *_: passes.append(1))
    results = []
    for number in range(NUM_STEPS):
        batches = []
        for slot, route_id in enumerate(ROUTES.tolist()):
            index = number * len(ROUTES) + slot
            sample_ids = np.arange(index * BATCH, (index + 1) * BATCH)
            valid = np.ones(BATCH, dtype=bool)
            damage: tuple[Damage, ...] = ()
            if index == 1:
                valid[2], damage = False, (Damage(int(sample_ids[2]), "a.tar", "b", "broken"),)
            batches.append(
                ImageBatch(
                    sample_ids=sample_ids,
                    images=images[index],
                    valid=valid,
                    active_route=route_id,
                    index=index,
                    damage=damage,
                )
            )
        results.append(step(ROUTES, iter(batches)))
    return model, results, len(passes)


def test_three_steps_give_the_same_network_and_the_same_numbers() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        (wanted, single, passes), (actual, stacked, fewer) = train("single"), train("stacked")
    finally:
        torch.set_default_dtype(torch.float32)
    assert passes == NUM_STEPS * len(ROUTES)
    assert fewer == NUM_STEPS + 2, "a slot with fewer images, and one without labels, run by themselves"
    for (name, value), other in zip(wanted.state_dict().items(), actual.state_dict().values(), strict=True):
        assert gap(other.double(), value.double()) < 1e-10, name
    for one, other in zip(single, stacked, strict=True):
        np.testing.assert_allclose(one.sync.losses, other.sync.losses, rtol=1e-10)
        for field in ("labelled", "labels", "damaged"):
            np.testing.assert_array_equal(getattr(one.sync, field), getattr(other.sync, field))
        assert abs(one.grad_norm - other.grad_norm) < 1e-10 * one.grad_norm


@pytest.fixture
def config() -> Config:
    settings = {"train.accumulate": 8, "data.batch_size": 16, "routing.sigma": 0.5, "data.path": "nowhere"}
    model = {"model.name": "vgg11_bn", "model.width": 0.25, "model.stem": "small"}
    return with_settings(Config(), settings | model)


def test_small_slots_are_stacked_on_cpus(config: Config) -> None:
    assert choose_slots(config, 32, 10, has_gpu=False) == "stacked"
    assert choose_slots(config, 32, 10, has_gpu=True) == "single"
    assert choose_slots(config, 32, 1, has_gpu=False) == "single"
    for settings in (
        {"train.accumulate": 1},
        {"data.batch_size": 128},
        {"model.width": 1.0},
        {"model.name": "squeezenet1_1"},
        {"train.channels_last": True},
        {"routing.execution": "masked"},
    ):
        assert choose_slots(with_settings(config, settings), 32, 10, has_gpu=False) == "single", settings


def test_what_cannot_be_stacked_is_refused(config: Config) -> None:
    config = replace(config, train=replace(config.train, slots="stacked"))
    check_slots(config, 32)
    with pytest.raises(InputError, match=r"`train\.slots` should be single or auto with `routing\.execution` = masked"):
        check_slots(with_settings(config, {"routing.execution": "masked"}), 32)
    with pytest.raises(InputError, match="mixes channels"):
        check_slots(with_settings(config, {"model.name": "squeezenet1_1"}), 32)
