"""Fills in what a config leaves to be chosen, step by step: each step may need what the steps before it chose."""

import contextlib
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from matl_scale.automatic import AUTO, chosen
from matl_scale.errors import InputError
from matl_scale.models.backbone_size import measure_backbone
from matl_scale.models.backbones import build_backbone_outline, check_name, halves_early
from matl_scale.models.config import ModelConfig, Stem
from matl_scale.models.network import MEAN, STD
from matl_scale.models.pass_cost import find_layer_at
from matl_scale.models.transformers import fill_size, has_patches
from matl_scale.routing.heads import fit_sigma
from matl_scale.train.config import Config, walk, with_settings
from matl_scale.train.defaults import rules
from matl_scale.train.defaults.facts import Machine, RunFacts
from matl_scale.train.defaults.speed import measure_image_s

# what a run that starts with the network of another takes over from it
NETWORK_KEYS = (
    "model.name", "model.args", "model.width", "model.stem", "model.mean", "model.std",
    "routing.sigma", "routing.start", "routing.statistics",
)  # fmt: skip
# what a run that resumes, or starts with the network of another, takes over before its data are opened: from any run, and from
# one that was trained on features
SIZE_KEYS = ("data.image_size",)
FEATURE_KEYS = ("model.name", "model.trunk", "model.weights_sha256")
# what a resumed run chooses anew
NOT_INHERITED = (
    "run.resume", "routing.routes", "data.workers", "train.precision", "train.epochs", "train.steps", "train.accumulate",
)  # fmt: skip
# what belongs to one strategy alone, and is taken over by a run of the same one
STRATEGY_KEYS = ("routing.interval", "routing.dense_share")


def keys_of_network(config: Config) -> Sequence[str]:
    """Returns the keys that a run takes from the network that it starts with; its σ is not among them where that is dense."""
    return [key for key in NETWORK_KEYS if key != "routing.sigma" or config.routing.strategy != "magnitude"]


def inherit(config: Config, earlier: Config, keys: Sequence[str] | None = None) -> Config:
    """Returns a config whose `auto` values are those of an earlier config; of some keys, or of all that may be inherited."""
    before = dict(walk(earlier))
    fresh = NOT_INHERITED if config.routing.strategy == earlier.routing.strategy else NOT_INHERITED + STRATEGY_KEYS
    open_keys = [key for key, value in walk(config) if value == AUTO and key not in fresh]
    return with_settings(config, {key: before[key] for key in open_keys if keys is None or key in keys})


def fill_only_auto(config: Config, values: dict[str, Any]) -> Config:
    """Returns a config with those of the values whose key is `auto`."""
    now = dict(walk(config))
    return with_settings(config, {key: value for key, value in values.items() if now[key] == AUTO})


def fill_workers(config: Config, machine: Machine) -> Config:
    """Chooses the number of loader processes."""
    return fill_only_auto(config, {"data.workers": rules.choose_workers(machine.cores, machine.has_gpu)})


def fill_model(config: Config, facts: RunFacts) -> Config:
    """Chooses the backbone."""
    if config.model.is_features:  # the rest follows from the features
        return fill_only_auto(config, {"model.args": {}})
    config = fill_only_auto(config, {"model.name": rules.choose_backbone(facts.image_size, facts.machine.has_gpu)})
    name = config.model.name
    check_name(name)
    args = {} if config.model.args == AUTO else config.model.args
    config = with_settings(config, {"model.args": fill_size(name, args, facts.image_size)})
    images = {"model.mean": list(MEAN), "model.std": list(STD), "model.weights_sha256": ""}
    no_features = {"model.trunk": "", "model.trunk_sha256": "", "model.num_features": 0}
    config = fill_only_auto(config, {**images, **no_features})
    if config.model.stem == AUTO:
        stem: Stem = "standard"  # of patches
        if not has_patches(name):
            stem = rules.choose_stem(facts.image_size, partial(halves_early, config.model))
        config = with_settings(config, {"model.stem": stem})
    return (
        fill_only_auto(config, {"model.width": choose_width(config, facts)}) if config.model.width == AUTO else config
    )


def fit_image_size(config: Config, facts: RunFacts) -> int:
    """Returns the side length in pixels at which images are read: their own, unless a run of so many minutes on CPUs would make
    too few passes over them with a network of `SIZED_WIDTH`; then the largest one with which it makes enough, or the fastest.
    Backbones that are made for a size, and those with weights or features, keep it."""
    minutes, model = config.train.minutes, config.model
    if config.data.image_size != AUTO or not minutes or facts.machine.has_gpu or model.is_features or model.is_trained:
        return facts.image_size
    if model.name != AUTO:
        check_name(model.name)
        if has_patches(model.name):
            return facts.image_size
    wanted = rules.choose_wanted_passes(choose_epochs(config, facts), minutes)
    image_s: dict[int, float] = {}
    for size in rules.list_sizes(facts.image_size):
        image_s[size] = find_sized_image_s(config, replace(facts, image_size=size))
        passes = rules.count_passes(facts.num_samples, image_s[size], minutes, facts.machine.num_ranks)
        if passes >= wanted * rules.ENOUGH:
            return size
    # not always the smallest: below 64 pixels, many backbones keep the resolution in their first layers
    return min(image_s, key=lambda size: image_s[size])


def find_sized_image_s(config: Config, facts: RunFacts) -> float:
    """Returns the seconds that a rank takes to train an image with a network of the given width, of `SIZED_WIDTH` if it is open,
    or of full width if it cannot be scaled; infinite if none can be built, the reason for which shows when that is tried."""
    for width in (rules.SIZED_WIDTH, 1.0):
        with contextlib.suppress(InputError):
            model = fill_model(fill_only_auto(config, {"model.width": width}), facts).model
            return find_image_s(model, facts, is_timed=True)
    return math.inf


def choose_width(config: Config, facts: RunFacts) -> float:
    """Returns the width of the backbone: full on a GPU; on CPUs that of the widths with which the run makes nearest to so many
    passes as are wanted. A backbone whose width cannot be scaled has full width."""
    if facts.machine.has_gpu:
        return 1.0
    minutes = config.train.minutes
    wanted = rules.choose_wanted_passes(choose_epochs(config, facts), minutes)
    passes = {}
    for width in rules.CPU_WIDTHS:
        # what is wrong besides the width shows when the network is built
        with contextlib.suppress(InputError):
            image_s = find_image_s(replace(config.model, width=width), facts, bool(minutes))
            passes[width] = rules.count_passes(facts.num_samples, image_s, minutes, facts.machine.num_ranks)
    return min(passes, key=lambda width: abs(math.log(passes[width] / wanted)), default=1.0)


def find_image_s(model: ModelConfig, facts: RunFacts, is_timed: bool) -> float:
    """Returns the seconds that a rank takes to train an image. They are measured where the length of the run is a time, which no
    start of it repeats exactly; else they are those of a usual machine, so that equal starts make equal choices."""
    machine = facts.machine
    if is_timed and not machine.has_gpu:
        return measure_image_s(model, facts.image_size)
    cost = measure_backbone(model, facts.image_size).multiply_adds
    return rules.PASS_COST * cost / (rules.GPU_RATE if machine.has_gpu else rules.CORE_RATE * machine.threads)


def choose_epochs(config: Config, facts: RunFacts) -> float:
    return rules.choose_epochs(facts.num_samples) if config.train.epochs == AUTO else config.train.epochs


def fill_asked_sigma(config: Config) -> Config:
    """Chooses σ before the routes, where both are open and another setting of `routing` asks for routes with units of their own:
    one route would leave what that setting is about without effect."""
    if config.routing.routes != AUTO or not config.routing.asks_for_routes():
        return config
    return fill_only_auto(config, {"routing.sigma": fit_usual_sigma(config)})


def fill_first_layer(config: Config, image_size: int) -> Config:
    """Chooses the first routed layer. In a trained backbone, early layers serve all tasks as they are; where they lacked units,
    what is behind them would no longer fit. With `magnitude`, routes lack those that are needed least, at any depth."""
    routing, model = config.routing, config.model
    if routing.routes == AUTO and routing.sigma == AUTO:
        is_plain = not (routing.asks_for_routes() or config.data.balance)
    else:
        is_plain = routing.routes in ("one", 1) or all(sigma == 1 for sigma in routing.given_sigmas())
    is_chosen = routing.layers != ["*"] or bool(routing.sigmas) or routing.sigma_last != "none"
    if routing.start != AUTO or is_plain or is_chosen or not model.is_trained or routing.strategy == "magnitude":
        return fill_only_auto(config, {"routing.start": ""})
    return with_settings(config, {"routing.start": find_layer_at(model, image_size, rules.TUNED_FROM)})


def fill_sigma(config: Config, num_routes: int) -> Config:
    """Chooses σ. With a smaller one than 1, an only route would leave units idle."""
    if config.routing.sigma != AUTO:
        return config
    return with_settings(config, {"routing.sigma": 1.0 if num_routes == 1 else fit_usual_sigma(config)})


def fill_step(config: Config, facts: RunFacts, num_routes: int) -> Config:
    """Chooses what a step consists of."""
    machine = facts.machine
    accumulate = rules.choose_accumulate(facts.num_samples, num_routes, machine.num_ranks, config.data.share)
    config = fill_only_auto(config, {"train.accumulate": accumulate})
    if config.data.batch_size == AUTO:
        size = measure_backbone(config.model, facts.image_size)
        accumulate = chosen(config.train.accumulate)
        memory = machine.memory // (accumulate if config.routing.statistics == "step" else 1)  # of a micro-step
        batch_size = rules.choose_batch_size(
            facts.num_samples, machine.num_ranks * accumulate, size.activation_bytes, memory
        )
        config = with_settings(config, {"data.batch_size": batch_size})
    return config


def fit_usual_sigma(config: Config) -> float:
    """Returns the σ of several routes that is usual; where heads do not split by it, the nearest one by which they do."""
    usual = rules.TUNED_SIGMA if config.model.is_trained else rules.USUAL_SIGMA
    is_rounded = config.routing.strategy == "partition" or config.routing.sigma_last != "none"
    if is_rounded or not has_patches(config.model.name):
        return usual
    return fit_to_heads(config.model, usual, config.routing.first_layer)


def fit_to_heads(model: ModelConfig, sigma: float, start: str = "") -> float:
    """Returns the σ nearest to one by which the attention heads of a backbone split from the layer `start` on; σ itself if it has
    none."""
    return fit_sigma(build_backbone_outline(model, seed=0), sigma, start)


def fill_steps(config: Config, facts: RunFacts, labels_per_step: float) -> Config:
    """Chooses the number of steps by the passes over the labels; of a run that has one, says how many passes it is."""
    if config.train.steps != AUTO:
        passes = config.train.steps * labels_per_step / max(facts.num_labels, 1)
        return fill_only_auto(config, {"train.epochs": float(f"{passes:.3g}")})
    epochs = choose_epochs(config, facts)
    steps = max(1, math.ceil(epochs * facts.num_labels / labels_per_step))
    return fill_only_auto(config, {"train.epochs": epochs, "train.steps": steps})


def guess_steps(config: Config, facts: RunFacts, step_images: float) -> int:
    """Returns about how many steps a run of `train.minutes` will have.

    Args:
        config: With all that a step consists of chosen.
        facts: The data and the machine.
        step_images: Images of a step over all ranks.
    """
    sigma = chosen(config.routing.of_training().sigma)
    image_s = find_image_s(config.model, facts, is_timed=True) * sigma**2 + rules.IMAGE_S
    step_s = step_images / facts.machine.num_ranks * image_s + chosen(config.train.accumulate) * rules.SLOT_S
    return max(1, round(config.train.minutes * 60 / step_s))


def fill_optimizer(config: Config, num_routes: int, num_ranks: int) -> Config:
    """Chooses rates and warm-up; that of a run of so many minutes stays a share of it."""
    num_slots = num_ranks * chosen(config.train.accumulate)
    step_images = num_slots * chosen(config.data.batch_size)
    tunes_trained = config.model.is_trained and "*" not in config.model.freeze
    return fill_only_auto(
        config,
        {
            "optim.lr": rules.choose_rate(config.optim.name, step_images, tunes_trained),
            "optim.head_lr_scale": rules.choose_head_scale(num_routes, num_slots),
        },
    )
