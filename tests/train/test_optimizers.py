"""Optimizers step as their papers say, each parameter by its own count; a resumed one goes on as if nothing had been."""

import copy
import io
from functools import cache
from typing import Any, get_args

import pytest
import torch

from matl_scale import extras
from matl_scale.errors import InputError
from matl_scale.models.config import ModelConfig
from matl_scale.models.network import RoutedModel, build_model
from matl_scale.models.routing_config import RoutingConfig
from matl_scale.train.length import Length
from matl_scale.train.state import TrainState
from matl_scale.train.step.optim import LearningRate, OptimConfig, build_optimizer, set_learning_rate
from matl_scale.train.step.optimizers import OptimizerName

SMALL = ModelConfig(name="resnet18", width=0.0625, stem="small")
DECAY, BETA_1 = 0.1, 0.8
RATE = LearningRate(peak=0.01, warmup_steps=2, length=Length(num_steps=6))


@cache
def network() -> RoutedModel:
    """Returns a network of three routes with norms of their own, in float64."""
    return build_model(SMALL, RoutingConfig(sigma=0.5, affine="route"), [2, 3, 2], 0, 16).double()


def build(name: OptimizerName) -> TrainState:
    model = copy.deepcopy(network())
    config = OptimConfig(name=name, lr=0.01, head_lr_scale=2.0, weight_decay=DECAY, momentum=BETA_1)
    return TrainState(model=model, optimizer=build_optimizer(config, model))


def give_gradients(model: RoutedModel, step: int) -> None:
    """Gives the trunk gradients, and what belongs to the route of this step; the first route is never drawn."""
    generator = torch.Generator().manual_seed(step)
    active = {id(parameter) for parameter in model.own_parameters(1 + step % 2)}
    for part in (model.heads, model.affine, model.trunk):
        for parameter in part.parameters() if part is not None else []:
            drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            # in the parameter's memory format, as autograd has it
            parameter.grad = torch.empty_like(parameter).copy_(drawn)
            if part is not model.trunk and id(parameter) not in active:
                parameter.grad = None


def take_steps(state: TrainState, begin: int, end: int) -> None:
    for step in range(begin, end):
        give_gradients(state.model, step)
        set_learning_rate(state.optimizer, RATE, step)
        state.optimizer.step()


class ByTheBook:
    """One parameter, by the formulas of the papers; `step` is called where it has a gradient."""

    def __init__(self, name: str, value: torch.Tensor, is_head: bool) -> None:
        self.name, self.value, self.uses_muon = name, value, name == "muon" and value.ndim == 4
        self.decay = DECAY if value.ndim > 1 and not (name == "lamb" and is_head) else 0.0
        self.first, self.second = torch.zeros_like(value), torch.zeros_like(value)
        self.count = 0

    def step(self, gradient: torch.Tensor, rate: float) -> None:
        self.count += 1
        decayed = self.value * (1 - rate * self.decay)
        if self.name == "sgd":
            gradient = gradient + self.decay * self.value
            self.first = BETA_1 * self.first + gradient if self.count > 1 else gradient
            self.value = self.value - rate * self.first
        elif self.name == "lion":
            self.value = decayed - rate * (BETA_1 * self.first + (1 - BETA_1) * gradient).sign()
            self.first = 0.99 * self.first + 0.01 * gradient
        elif self.uses_muon:
            self.first = BETA_1 * self.first + (1 - BETA_1) * gradient
            flat = self.first.flatten(1)
            left, _, right = torch.linalg.svd(flat, full_matrices=False)
            self.value = decayed - rate * 0.2 * max(flat.shape) ** 0.5 * (left @ right).view_as(self.value)
        else:
            update = self._adam(gradient, 1e-8 if self.name == "adamw" else 1e-6 if self.name == "lamb" else 1e-7)
            if self.name == "lamb" and self.decay:
                update = update + self.decay * self.value
                self.value = self.value - rate * update * self.value.norm() / update.norm()
            elif self.name == "lamb":
                self.value = self.value - rate * update
            else:
                self.value = decayed - rate * update

    def _adam(self, gradient: torch.Tensor, epsilon: float) -> torch.Tensor:
        self.first = BETA_1 * self.first + (1 - BETA_1) * gradient
        self.second = 0.999 * self.second + 0.001 * gradient**2
        first, second = self.first / (1 - BETA_1**self.count), self.second / (1 - 0.999**self.count)
        return first / (second.sqrt() + epsilon)


@pytest.mark.parametrize("name", get_args(OptimizerName))
def test_every_parameter_steps_by_the_book_when_it_has_a_gradient(name: OptimizerName) -> None:
    state = build(name)
    named = dict(state.model.named_parameters())
    expected = {each: ByTheBook(name, p.detach().clone(), each.startswith("heads.")) for each, p in named.items()}
    begin = {each: p.detach().clone() for each, p in named.items()}
    for step in range(4):
        take_steps(state, step, step + 1)
        for each, parameter in named.items():
            if parameter.grad is not None:
                rate = RATE.at(step) * (1 if each.startswith("trunk.") else 2)
                expected[each].step(parameter.grad, rate)
    for each, parameter in named.items():
        wanted = expected[each]
        if not wanted.uses_muon:
            torch.testing.assert_close(parameter.detach(), wanted.value, rtol=1e-9, atol=1e-12, msg=each)
            continue
        # Newton and Schulz's iteration comes close to orthogonal matrices, in bfloat16
        moved, by_the_book = parameter.detach() - begin[each], wanted.value - begin[each]
        assert (moved - by_the_book).norm() < 0.05 * by_the_book.norm(), each
    idle = [each for each in named if not expected[each].count]
    assert idle == ["heads.0.weight", "heads.0.bias", "affine.rows.0"]


@pytest.mark.parametrize("name", ["lion", "lamb", "muon"])
def test_a_resumed_optimizer_goes_on_bit_for_bit(name: OptimizerName) -> None:
    whole, broken = build(name), build(name)
    take_steps(whole, 0, 5)
    take_steps(broken, 0, 3)
    file = io.BytesIO()
    torch.save(broken.state_dict(), file)
    file.seek(0)
    resumed = build(name)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    take_steps(resumed, 3, 5)
    for (each, parameter), other in zip(whole.model.named_parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(parameter, other), each


@pytest.mark.parametrize("name", ["adamw", "sgd", "lion"])
def test_an_optimizer_resumes_in_another_memory_format(name: OptimizerName) -> None:
    whole, broken, resumed = build(name), build(name), build(name)
    resumed.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    take_steps(whole, 0, 5)
    take_steps(broken, 0, 3)
    resumed.load_state_dict(broken.state_dict())
    take_steps(resumed, 3, 5)
    for (each, parameter), other in zip(whole.model.named_parameters(), resumed.model.parameters(), strict=True):
        torch.testing.assert_close(other, parameter, rtol=1e-12, atol=1e-12, msg=each)


def test_without_timm_it_is_said_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    find = extras.find_spec
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "timm" else find(name))
    with pytest.raises(InputError, match=r"`optim\.name` = lion needs `timm`, .* pip install 'matl-scale\[timm\]'"):
        build("lion")


@pytest.mark.parametrize(
    ("schedule", "shares"),
    [
        ("cosine", {50: 0.5, 90: 0.0244717, 100: 0.0}),
        ("wsd", {5: 1.0, 50: 1.0, 80: 1.0, 85: 0.5, 95: 1 - 0.75**0.5, 100: 0.0}),
        ("constant", {5: 1.0, 50: 1.0, 99: 1.0}),
    ],
)
def test_schedules(schedule: Any, shares: dict[int, float]) -> None:
    length = Length(num_steps=100)
    rate = LearningRate(peak=2.0, warmup_steps=4, length=length, schedule=schedule)
    assert [rate.at(step) for step in (0, 1)] == [0.5, 1.0]
    for step, share in shares.items():
        assert rate.at(step) == pytest.approx(2 * share, abs=1e-6), step
    before = rate.at(90)
    length.fit(90, 1000)  # the length of a run of so many minutes
    assert rate.at(90) == pytest.approx(before)
