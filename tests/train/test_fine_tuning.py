"""Rates that fall with depth, heads that are trained first, and runs that start from a file of weights."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from helpers import rank_work
from helpers.run_configs import ADAMW, SGD, assert_identical, build_config, saved_state
from helpers.shard_sets import ShardSet
from matl_scale.data.loading.config import DataConfig
from matl_scale.errors import InputError
from matl_scale.models.config import ModelConfig
from matl_scale.models.network import build_model
from matl_scale.models.routing_config import RoutingConfig
from matl_scale.routing.batch_norm import route_norms
from matl_scale.runs.checkpoints.checkpoint import open_checkpoint
from matl_scale.runs.checkpoints.network import restore_network
from matl_scale.storage.files import file_sha256
from matl_scale.train.config import Config, RunConfig, read_saved, with_settings
from matl_scale.train.length import FirstPart, Length
from matl_scale.train.loop import Hooks, Run
from matl_scale.train.process_group import build_accelerator
from matl_scale.train.resolve import resolve_offline
from matl_scale.train.run import train
from matl_scale.train.schedule import CheckpointConfig
from matl_scale.train.step.optim import LearningRate, OptimConfig, build_optimizer, set_learning_rate
from matl_scale.train.step.sampling import TasksConfig
from matl_scale.train.step.train_step import TrainConfig
from matl_scale.vision import models

SMALL = ModelConfig(name="resnet18", width=0.0625, stem="small")
State = dict[str, torch.Tensor]


def test_rates_fall_from_the_heads_to_the_stem() -> None:
    """As BEiT's: decay to the power of the number of blocks above, with the heads as the last layer."""
    model = build_model(SMALL, RoutingConfig(sigma=0.5, affine="route"), [2, 2], 0, 16)
    optimizer = build_optimizer(OptimConfig(lr=1.0, head_lr_scale=4.0, layer_decay=0.5, head_warmup=0.25), model)
    set_learning_rate(optimizer, LearningRate(peak=1.0, warmup_steps=0, length=Length(num_steps=100)), 50)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    rates = {names[id(parameter)]: group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
    assert set(rates) == set(names.values())
    blocks = ["conv1", *(f"layer{stage}.{block}" for stage in range(1, 5) for block in range(2))]
    for name, rate in rates.items():
        number = next((i for i, block in enumerate(blocks) if name.startswith(f"trunk.{block}.")), None)
        scale = 4.0 if number is None else 0.5 ** (len(blocks) - number)
        assert rate == pytest.approx(0.5 * scale), name


@pytest.mark.parametrize("warmup_steps", ["auto", 5])
def test_the_rate_of_the_trunk_rises_when_it_begins_to_be_trained(warmup_steps: Any) -> None:
    length = Length(num_steps=100)
    rate = LearningRate(peak=1.0, warmup_steps=warmup_steps, length=length)
    warmup = FirstPart(share=0.2, length=length)
    assert [step for step in range(100) if not warmup.is_over(step)] == list(range(20))
    trunk, heads = (np.array([rate.at(step, begin) for step in range(100)]) for begin in (0.2, 0.0))
    assert (trunk[22:24] > trunk[21:23]).all()
    assert trunk[20] == pytest.approx(0.2)
    assert heads[20] > 0.8
    np.testing.assert_array_equal(trunk[26:], heads[26:])
    assert all(FirstPart(share=0.0, length=length).is_over(step) for step in range(100))


def warming(folder: Path, shards: ShardSet, name: str, **sections: Any) -> Config:
    """A run of twelve steps that trains heads alone in the first six."""
    config = build_config(
        folder, shards, name, routing=RoutingConfig(sigma=0.5, routes=2, affine="route"), tasks=TasksConfig(),
        optim=replace(ADAMW, head_warmup=0.5, layer_decay=0.8), train=TrainConfig(steps=12, precision="fp32", ema_decay=0.9),
        checkpoint=CheckpointConfig(every=4),
    )  # fmt: skip
    return replace(config, **sections)


def test_the_trunk_rests_until_heads_are_warm(small_set: ShardSet, tmp_path: Path) -> None:
    config = warming(tmp_path, small_set, "run", optim=replace(SGD, head_warmup=0.5))
    states: list[State] = []

    def watch(run: Run) -> None:
        states.append({name: value.clone() for name, value in run.state.model.state_dict().items()})

    train(config, build_accelerator("fp32"), hooks=Hooks(before_step=watch))
    last = saved_state(config)["model"]
    for name, value in last.items():
        if not name.startswith("heads.") and not name.endswith(("running", "num_updates")):
            assert torch.equal(states[6][name], states[0][name]), name
        if "conv" in name or name.startswith("affine."):
            assert not torch.equal(value, states[6][name]), name
    assert not torch.equal(states[6]["heads.0.weight"], states[0]["heads.0.weight"])


def test_a_run_that_is_interrupted_in_the_warm_up_ends_as_if_it_had_not_been(
    small_set: ShardSet, tmp_path: Path
) -> None:
    whole, parts = (warming(tmp_path, small_set, name) for name in ("whole", "parts"))
    train(whole, build_accelerator("fp32"))

    def stop(run: Run) -> None:
        if run.state.step == 5:
            raise rank_work.Interrupted

    with pytest.raises(rank_work.Interrupted):
        train(parts, build_accelerator("fp32"), hooks=Hooks(before_step=stop))
    train(parts, build_accelerator("fp32"))
    assert_identical(saved_state(parts)["model"], saved_state(whole)["model"])
    assert_identical(saved_state(parts)["optimizer"], saved_state(whole)["optimizer"])
    with pytest.raises(InputError, match=r"trained with `optim.layer_decay` = 0\.8, not 1\.0"):
        train(with_settings(parts, {"optim.layer_decay": 1.0, "train.steps": 14}), build_accelerator("fp32"))


def test_importance_is_not_measured_in_the_warm_up() -> None:
    magnitude = RoutingConfig(strategy="magnitude", sigma=0.5, dense_share=0.4)
    Config(routing=magnitude, optim=OptimConfig(head_warmup=0.2))
    with pytest.raises(InputError, match=r"`optim.head_warmup` should be at most half of the dense part .*0\.2"):
        Config(routing=magnitude, optim=OptimConfig(head_warmup=0.3))
    for settings, message in (({"layer_decay": 0.0}, "above 0 and at most 1"), ({"head_warmup": 1.0}, "below 1")):
        with pytest.raises(InputError, match=message):
            OptimConfig(**settings)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of weights with batch norms that says for which images it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        state = models.get_model("mobilenet_v3_small", weights=None).state_dict()
    for name, value in state.items():
        if name.endswith("running_mean"):
            value.fill_(0.25)
    path = tmp_path_factory.mktemp("weights") / "own.safetensors"
    cfg = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "input_size": [3, 40, 40]}
    save_file(state, path, metadata={"pretrained_cfg": json.dumps(cfg)})
    return path


def starting_from(weights: Path, folder: Path, shards: ShardSet, **sections: Any) -> Config:
    config = Config(
        run=RunConfig(name="run", dir=str(folder)),
        model=ModelConfig(name="mobilenet_v3_small", weights=str(weights)),
        data=DataConfig(path=str(shards.root), workers=0, batch_size=4),
        train=TrainConfig(steps=2, accumulate=1, precision="fp32", ema_decay=0.0),
        routing=RoutingConfig(routes="one"),
    )
    return with_settings(config, {"track.mlflow": False, "eval.every": 0, **sections})


def test_a_run_takes_images_from_its_weights_and_remembers_the_file(
    weights: Path, small_set: ShardSet, tmp_path: Path
) -> None:
    file = tmp_path / "weights.safetensors"
    file.write_bytes(weights.read_bytes())
    config = starting_from(file, tmp_path, small_set, **{"optim.lr": 0.0, "checkpoint.every": 1})
    train(config, build_accelerator("fp32"))
    saved = read_saved(open_checkpoint(config.run.folder).config)
    assert saved.model.weights_sha256 == file_sha256(file)
    assert (saved.model.mean, saved.model.std, saved.data.image_size) == ([0.5] * 3, [0.25] * 3, 40)
    assert (saved.model.width, saved.model.stem) == (1.0, "standard")
    about = json.loads((config.run.folder / "about.json").read_text())
    assert about["params"]["model.weights_sha256"] == file_sha256(file)
    file.unlink()
    model = restore_network(open_checkpoint(config.run.folder), torch.device("cpu"))
    pixels = torch.full((1, 3, 1, 1), 255, dtype=torch.uint8)
    assert model.normalise(pixels).flatten().tolist() == pytest.approx([2.0] * 3)
    statistics = [norm.running[:, 0] for norm in route_norms(model)]
    assert not all((mean == 0.25).all() for mean in statistics), "they follow the images"
    assert all(int(norm.num_updates) == 12 for norm in route_norms(model)), "from where the weights left them"
    longer = with_settings(config, {"train.steps": 3})
    assert train(longer, build_accelerator("fp32")).step == 3, "a run that resumes needs no file"
    file.write_bytes(b"other weights")
    with pytest.raises(InputError, match=r"trained with `model.weights_sha256` = "):
        train(with_settings(config, {"train.steps": 4}), build_accelerator("fp32"))


def test_weights_are_refused_before_the_run_begins(weights: Path, small_set: ShardSet, tmp_path: Path) -> None:
    for settings, message in (
        ({"model.name": "resnet18"}, r"does not fit `model.name` = resnet18"),
        ({"model.stem": "small", "model.name": "resnet18"}, r"does not fit `model.name` = resnet18"),
        ({"model.weights_sha256": "00"}, r"another file than `model.weights_sha256` says"),
        (
            {"model.name": "auto"},
            r"`model.name` should be given with `model.weights`: .* does not say for which network",
        ),
    ):
        with pytest.raises(InputError, match=message):
            resolve_offline(starting_from(weights, tmp_path, small_set, **settings))
    resolved, _ = resolve_offline(starting_from(weights, tmp_path, small_set, **{"data.image_size": 32}))
    assert resolved.config.data.image_size == 32, "what is given counts"
    assert any("own.safetensors (SHA-256 " in line and "mean 0.5 0.5 0.5" in line for line in resolved.lines)


def test_frozen_runs_of_older_versions_are_read() -> None:
    old = read_saved({"run": {"freeze": "trunk"}, "model": {"name": "resnet18"}})
    assert (old.run.freeze, old.model.freeze) == ("nothing", ["*"])
    assert old.model.mean == [0.485, 0.456, 0.406]
