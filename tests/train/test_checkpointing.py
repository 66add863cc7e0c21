"""Gradient checkpointing changes what is kept, and nothing else."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from helpers.run_configs import build_config, saved_state
from helpers.shard_sets import ShardSet
from matl_scale.errors import InputError
from matl_scale.models.config import ModelConfig
from matl_scale.models.network import RoutedModel, build_model
from matl_scale.models.routing_config import Execution, RoutingConfig
from matl_scale.routing.batch_norm import route_norms
from matl_scale.routing.checkpointing import Part
from matl_scale.train.choose_slots import check_slots
from matl_scale.train.config import Config
from matl_scale.train.process_group import build_accelerator
from matl_scale.train.run import train
from matl_scale.train.step.execution import TrunkExecution
from matl_scale.train.step.train_step import TrainConfig

BATCH = 7
BACKBONES = {
    "resnet18": {"width": 0.0625, "drop_path": 0.5},
    "vgg11_bn": {"width": 0.0625},
}


def build(name: str, affine: Any = "shared") -> RoutedModel:
    config = ModelConfig(name=name, stem="small", **BACKBONES[name])  # type: ignore[arg-type]
    return build_model(config, RoutingConfig(sigma=0.5, affine=affine), [2, 2], 0, 32).double()


@contextlib.contextmanager
def counting_kept(trunk: TrunkExecution, found: list[int]) -> Iterator[None]:
    """Appends the bytes of all different tensors of images that a forward pass keeps, in the graph or as inputs of parts."""
    sizes: dict[int, int] = {}

    def add(tensor: torch.Tensor) -> torch.Tensor:
        if len(tensor) == BATCH and tensor.dim() == 4:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    def add_inputs(_: nn.Module, inputs: Any) -> None:
        for value in inputs:
            if isinstance(value, torch.Tensor) and value.dim():
                add(value)

    parts = [module for module in trunk.module.modules() if isinstance(module, Part)]
    handles = [part.register_forward_pre_hook(add_inputs) for part in parts]
    with torch.autograd.graph.saved_tensors_hooks(add, lambda tensor: tensor):
        yield
    for handle in handles:
        handle.remove()
    found.append(sum(sizes.values()))


def run(model: RoutedModel, execution: Execution, checkpointing: bool, freeze: list[str]) -> tuple[Any, int]:
    """Returns features, gradients and statistics of two micro-steps, and the bytes of images that the first one kept."""
    model.train()
    accelerator, kept = build_accelerator("fp32"), list[int]()
    trunk = TrunkExecution(
        accelerator, model.trunk, execution, freeze=freeze, affine=model.affine, checkpointing=checkpointing
    )
    trunk.begin_step([1, 1])
    generator, outcome = torch.Generator().manual_seed(0), []
    for seed in range(2):
        images = torch.randn(BATCH, 3, 32, 32, dtype=torch.float64, generator=generator)
        torch.manual_seed(seed)
        with counting_kept(trunk, kept):
            (features,) = trunk.features([images], [1])
        model.eval()  # a mode that is not that of the forward pass
        features.square().sum().backward()
        model.train()
        outcome.append(features.detach())
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    return (outcome, gradients, dict(model.named_buffers())), kept[0]


@pytest.mark.parametrize(
    ("name", "execution", "freeze", "affine"),
    [
        ("resnet18", "subnetwork", [], "route"),
        ("resnet18", "masked", [], "route"),
        ("resnet18", "subnetwork", ["conv1", "layer1"], "shared"),
        ("vgg11_bn", "subnetwork", [], "shared"),
    ],
)
def test_equal_to_without(name: str, execution: Execution, freeze: list[str], affine: Any) -> None:
    (plain, kept), (again, kept_then) = (run(build(name, affine), execution, on, freeze) for on in (False, True))
    torch.testing.assert_close(again, plain, rtol=1e-10, atol=1e-13)
    assert kept_then < 0.5 * kept


def test_parts_are_blocks_and_keep_the_names_of_tensors() -> None:
    model = build("resnet18")
    names = list(model.state_dict())
    trunk = TrunkExecution(build_accelerator("fp32"), model.trunk, "subnetwork", checkpointing=True)
    assert trunk.network is not None
    parts = [module for module in trunk.network.dense.modules() if isinstance(module, Part)]
    assert len(parts) == 8, "the stem is in the part of the first block"
    norms = [len(route_norms(part)) for part in parts]
    assert norms == [3, 2, 3, 2, 3, 2, 3, 2]
    assert list(model.state_dict()) == names
    assert all(isinstance(part, nn.Module) for part in parts)


def test_a_run_is_equal_to_one_without(small_set: ShardSet, tmp_path: Path) -> None:
    """Statistics of norms are counted once; and stacked micro-steps, which `auto` would choose, run one after the other."""
    states = []
    for on in (False, True):
        config = build_config(
            tmp_path, small_set, f"run-{on}", routing=RoutingConfig(sigma=0.5, routes=2, grouping="order"),
            train=TrainConfig(steps=2, precision="fp32", accumulate=2, slots="auto" if on else "single", checkpointing=on),
        )  # fmt: skip
        train(config, build_accelerator("fp32"))
        states.append(saved_state(config))
    assert states[0]["model"].keys() == states[1]["model"].keys()
    torch.testing.assert_close(states[1]["model"], states[0]["model"], rtol=1e-4, atol=1e-6)
    assert max(value.max().item() for name, value in states[1]["model"].items() if name.endswith("num_updates")) == 2


def test_what_checkpointing_does_not_go_with() -> None:
    with pytest.raises(InputError, match=r"`train\.checkpointing` should be false with `train\.compile`"):
        TrainConfig(checkpointing=True, compile=True)
    stacked = Config(
        model=ModelConfig(name="resnet18", width=0.0625, stem="small"),
        train=TrainConfig(checkpointing=True, slots="stacked"),
    )
    with pytest.raises(InputError, match=r"`train\.slots` should be single or auto with `train\.checkpointing`"):
        check_slots(stacked, 16)
