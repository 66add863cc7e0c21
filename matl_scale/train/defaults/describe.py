"""Says what a run has chosen, in a few lines, before its first step."""

import math

from matl_scale.automatic import AUTO, Auto, chosen
from matl_scale.models.config import ModelConfig
from matl_scale.models.routing_config import describe_range
from matl_scale.routes import Routes
from matl_scale.text import count_of
from matl_scale.train.config import Config
from matl_scale.train.defaults import rules
from matl_scale.train.defaults.facts import Machine
from matl_scale.train.length import Length
from matl_scale.train.masks.dense_part import DensePart
from matl_scale.train.schedule import PARTS


def describe_choices(
    given: Config, config: Config, routes: Routes, passes: float, full_size: int, machine: Machine, rarest: float
) -> list[str]:
    """Returns the lines: routes, network and images, optimizer, length.

    Args:
        given: The config as it was given.
        config: The same with every choice made.
        routes: Which tasks share a route.
        passes: Passes over the labels, if the run has a number of steps.
        full_size: Side length in pixels at which images would be read if there were time enough.
        machine: What each rank computes with.
        rarest: Samples of its rarest class that a task has in the split of evaluations.
    """
    lines = [
        describe_routes(config, routes, machine),
        describe_network(config, full_size),
        f"{config.optim.name}, rate {chosen(config.optim.lr):g} (heads × {chosen(config.optim.head_lr_scale):g}), warm-up "
        f"{describe_auto(config.optim.warmup_steps, 'a twentieth of the run')}, moving average "
        f"{describe_auto(config.train.ema_decay, 'over the last twentieth')}",
        describe_length(config, passes),
    ]
    if config.model.is_trained:
        lines.insert(2, describe_weights(config.model))
    if share := config.routing.dense_part:
        lines.append(describe_dense_part(config, share))
    if given.checkpoint.best == AUTO:
        lines.append(describe_best(config, rarest))
    if text := describe_patience(config):
        lines.append(text)
    if given.train.epochs != AUTO and given.train.steps != AUTO:
        lines.append(f"train.steps wins over train.epochs {given.train.epochs:g}")
    return lines


def describe_network(config: Config, full_size: int) -> str:
    """Says what the network is, and what it gets."""
    model, image_size = config.model, chosen(config.data.image_size) or full_size
    if model.is_features:
        layers = f"layers of {', '.join(map(str, model.layers))} units" if model.layers else "heads alone"
        return (
            f"{layers} on {model.num_features} features of {model.trunk} (weights {model.weights_sha256[:8]}…), of images of "
            f"{image_size} pixels"
        )
    smaller = (
        f" (of {full_size}, for which {config.train.minutes:g} min are too short; set `data.image_size` to choose)"
        if image_size < full_size
        else ""
    )
    return (
        f"{model.name}, width {chosen(model.width):g}, stem {model.stem}, on images of {image_size} pixels{smaller}, augment "
        f"{describe_augment(config.data.augment)}"
    )


def describe_weights(model: ModelConfig) -> str:
    """Says which weights a backbone starts with, and which images it therefore gets."""
    source = f"{model.weights} (SHA-256 {model.weights_sha256[:8]}…)" if model.weights else "torchvision"
    mean, std = (" ".join(f"{number:g}" for number in chosen(values)) for values in (model.mean, model.std))
    frozen = f"; {', '.join(model.freeze)} stays as it is" if model.freeze else ""
    return f"weights from {source}, for images of mean {mean}, standard deviation {std}{frozen}"


def describe_augment(setting: list[str] | str) -> str:
    return setting if isinstance(setting, str) else ", ".join(setting) or "none"


def describe_routes(config: Config, routes: Routes, machine: Machine) -> str:
    slots, batch = machine.num_ranks * chosen(config.train.accumulate), chosen(config.data.batch_size)
    start = f" from {config.routing.first_layer} on" if config.routing.first_layer else ""
    sigma = f"σ {describe_range(config.routing)}{start}"
    if routes.num_routes == 1:
        text = f"one route for {count_of(routes.num_tasks, 'task')}, {sigma}"
        return f"{text}; {count_of(slots * batch, 'image')} per step"
    shared = f", {config.data.share} on the same images" if config.data.share > 1 else ""
    together = " in one batch" if config.routing.statistics == "step" else " each"
    return (
        f"{routes.num_routes} routes for {count_of(routes.num_tasks, 'task')}, {sigma}; {slots} per "
        f"step, with {count_of(batch, 'image')}{together}{shared}"
    )


def describe_dense_part(config: Config, share: float) -> str:
    """Says when the dense part of a run ends."""
    first = f"the first {share:.3g} of them"
    if not config.train.minutes:
        length = Length(num_steps=chosen(config.train.steps))
        first = f"the first {count_of(DensePart(share=share, length=length).num_steps, 'step')}"
    return f"{first} train all units for all routes (dense); then each route keeps those that matter most to its tasks"


def describe_auto(value: float | Auto, text: str) -> str:
    return text if value == AUTO else f"{value:g}"


def describe_best(config: Config, rarest: float) -> str:
    text = f"the best network is that with the highest {config.checkpoint.best} on {config.eval.split}"
    if config.checkpoint.best == rules.DECIDED:
        return text
    samples = count_of(rarest, "sample", ".3g")
    return f"{text}: a task has {samples} of its rarest class there, too few to choose by decisions"


def describe_patience(config: Config) -> str:
    """Says that a run has too few evaluations to end early, where that is known; else nothing."""
    every, patience = config.eval.every, config.train.patience
    if not patience or (every != AUTO and config.train.minutes):
        return ""
    num_evaluations = PARTS if every == AUTO else math.ceil(chosen(config.train.steps) / every) if every else 1
    if patience <= num_evaluations - 2:
        return ""
    times = count_of(num_evaluations, "time")
    return f"train.patience {patience} cannot end this run early, which is evaluated {times}: set eval.every"


def describe_length(config: Config, passes: float) -> str:
    if config.train.minutes:
        return f"{config.train.minutes:g} min of steps; how many that is shows after the first ones"
    return f"{count_of(chosen(config.train.steps), 'step')}, {count_of(passes, 'pass', '.3g')} over the labels"
