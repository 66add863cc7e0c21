"""Makes every automatic choice of a run: which values its config gets where it says `auto`, and which routes."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from matl_scale.automatic import AUTO, chosen
from matl_scale.data.loading.members import Members
from matl_scale.data.loading.missing import choose_fills
from matl_scale.data.loading.plan import ALL_ROUTES
from matl_scale.data.loading.route_samples import open_labelled_samples, open_route_samples
from matl_scale.data.shards.label_marks import RouteCache
from matl_scale.data.shards.labels import Labels
from matl_scale.data.shards.layout import MISSING
from matl_scale.device import resolve_precision
from matl_scale.errors import InputError
from matl_scale.runs.checkpoints.checkpoint import CheckpointInfo
from matl_scale.train.build_routes import build_routes
from matl_scale.train.choose_routes import ChosenRoutes
from matl_scale.train.choose_slots import choose_slots
from matl_scale.train.choose_statistics import choose_statistics
from matl_scale.train.config import Config, read_saved, with_absolute_paths, with_settings
from matl_scale.train.defaults import fill, rules
from matl_scale.train.defaults.describe import describe_choices
from matl_scale.train.defaults.facts import Machine, RunFacts, read_machine
from matl_scale.train.defaults.weights import fill_before_data
from matl_scale.train.evaluation import EvalConfig
from matl_scale.train.masks.dense_part import check_dense_part
from matl_scale.train.memory_format import check_memory_format
from matl_scale.train.resume.start_from import find_frozen_tasks, find_start
from matl_scale.train.run_data import TRAIN_SPLIT, RunData, check_train_data, open_run_data
from matl_scale.train.share_images import check_share
from matl_scale.train.step.execution import SlotExecution
from matl_scale.train.step.sampling import RouteSampler, build_sampler


@dataclass(frozen=True, kw_only=True)
class StepLabels:
    """What a step trains on average, while every route has its turn."""

    slots_per_step: int
    shares: np.ndarray  # the share of the slots that each route gets, shape `(num_routes,)`
    images: np.ndarray  # images that a slot of each route trains on, on average, shape `(num_routes,)`
    labels: np.ndarray  # labels of a slot of each route, on average, shape `(num_routes,)`
    num_labels: int  # of the training split: one pass over the labels

    @property
    def images_per_step(self) -> float:
        return self.slots_per_step * float((self.shares * self.images).sum())

    @property
    def labels_per_step(self) -> float:
        return self.slots_per_step * float((self.shares * self.labels).sum())

    @property
    def steps_per_draw(self) -> int:
        """In how many steps each route that has samples is drawn at least once, on average."""
        return math.ceil(1 / (self.slots_per_step * float(self.shares[self.shares > 0].min())) - 1e-9)

    def passes(self, num_steps: int) -> float:
        """Returns how many passes over the labels so many steps are."""
        return num_steps * self.labels_per_step / max(self.num_labels, 1)


@dataclass(frozen=True, kw_only=True)
class ResolvedRun:
    """A run's config with every automatic choice made, and what follows from it."""

    config: Config  # `train.slots` stays `auto` if it was: what it stands for depends on other keys, and on the machine
    routes: ChosenRoutes
    slots: SlotExecution
    step_labels: StepLabels
    num_steps: int  # of a run of so many minutes, about
    lines: Sequence[str]  # what was chosen, to be printed at the start
    notes: Sequence[str]  # what the user should know about how the data were opened, in lines


def resolve_offline(config: Config, num_ranks: int = 1, ranks_per_node: int = 1) -> tuple[ResolvedRun, RunData]:
    """Makes the choices of a new run that is not started, or not yet.

    Raises:
        InputError: As at the start of the run.
    """
    machine = read_machine(num_ranks, ranks_per_node)
    start = find_start(config.run.start_from)
    config = fill_before_data(config, machine, None, start)
    data = open_run_data(config)
    check_train_data(data, config.data, num_ranks)
    resolved = resolve_run(config, data, machine, None, start)
    return resolved, data.at_size(resolved.config)


def resolve_run(
    config: Config, data: RunData, machine: Machine, checkpoint: CheckpointInfo | None, start: CheckpointInfo | None
) -> ResolvedRun:
    """Makes the choices of a run. What a run that resumes leaves open stays as its checkpoint has it.

    Args:
        config: As it was given.
        data: The shard set, with images at their full size.
        machine: What each rank computes with.
        checkpoint: The checkpoint to resume from, if any.
        start: The checkpoint of the run that `run.start_from` names, if any.

    Raises:
        InputError: `routing.routes` or `data.missing` does not fit the tasks, or a backbone does not fit the images.
    """
    given = config
    if checkpoint is not None:
        config = inherit_from_checkpoint(config, checkpoint, machine.num_ranks)
    elif start is not None:
        config = fill.inherit(config, read_saved(start.config), fill.keys_of_network(config))
    old_tasks = checkpoint.frozen if checkpoint else start.classes if start else ()
    frozen = find_frozen_tasks(config.run, old_tasks, data.task_names)
    fills = choose_fills(config.data.missing, data.tasks, config.data.balance, frozen)
    trained = data.without_labels(frozen)
    labels = trained.labels_of(TRAIN_SPLIT)
    per_task = np.where(fills == MISSING, labels.count(), labels.num_samples)
    cache = RouteCache(data.manifest.root)
    labelled, notes = open_labelled_samples(cache, labels, fills)
    facts = RunFacts(
        num_samples=count_labelled(labels, labelled, fills, ALL_ROUTES, range(len(data.tasks))),
        num_labels=int(per_task.sum()),
        image_size=data.image_size,
        machine=machine,
    )
    facts = replace(facts, image_size=fill.fit_image_size(config, facts))
    config = fill.fill_model(fill.fill_only_auto(config, {"data.image_size": facts.image_size}), facts)
    full_size, data = data.image_size, data.at_size(config)
    config = fill.fill_asked_sigma(fill.fill_first_layer(config, data.image_size))
    found = build_routes(config, data, checkpoint, start)
    config = fill.fill_sigma(config, found.routes.num_routes)
    statistics = choose_statistics(config, data.image_size, found.routes.num_routes)
    config = fill.fill_step(
        fill.fill_only_auto(config, {"routing.statistics": statistics}), facts, found.routes.num_routes
    )
    check_memory_format(config, machine.has_gpu)
    slots = choose_slots(config, data.image_size, found.routes.num_routes, machine.has_gpu)
    num_slots = machine.num_ranks * chosen(config.train.accumulate)
    labelled, more_notes = open_route_samples(cache, labels, found.routes, fills)
    sizes = np.array(
        [count_labelled(labels, labelled, fills, route, tasks) for route, tasks in enumerate(found.routes.tasks_of)]
    )
    sampler = build_sampler(config.tasks, found.routes.names, sizes, config.run.seed, num_slots)
    dense_share = config.routing.dense_part
    coverage = sizes / max(facts.num_samples, 1)
    check_share(config, found.routes, sampler, coverage)
    step_labels = measure_step(
        sampler,
        images=measure_slot(config, facts.num_samples, sizes),
        labels_per_image=np.array([per_task[list(tasks)].sum() for tasks in found.routes.tasks_of])
        / np.maximum(sizes, 1),
        num_labels=facts.num_labels,
    )
    check_interval(config, step_labels.steps_per_draw)
    config, num_steps = fill_length(config, facts, step_labels)
    if dense_share and checkpoint is None and not config.train.minutes:
        check_dense_part(dense_share, num_steps, sampler, found.routes)
    passes = step_labels.passes(num_steps)
    config = fill.fill_only_auto(config, {"data.augment": rules.choose_augment(facts.image_size, passes)})
    rarest = measure_rarest(data, config.eval)
    config = fill.fill_only_auto(config, {"checkpoint.best": rules.choose_best_metric(rarest)})
    config = fill.fill_optimizer(config, found.routes.num_routes, machine.num_ranks)
    config = with_absolute_paths(config)
    config = replace(
        config,
        routing=replace(config.routing, routes=found.setting),
        train=replace(config.train, precision=resolve_precision(config.train.precision)),
        data=replace(config.data, version=str(data.manifest.version)),
    )
    lines = []
    if checkpoint is None:
        lines = describe_choices(given, config, found.routes, passes, full_size, machine, rarest)
    return ResolvedRun(
        config=config,
        routes=found,
        slots=slots,
        step_labels=step_labels,
        num_steps=num_steps,
        lines=lines,
        notes=[*notes, *more_notes],
    )


def check_interval(config: Config, steps_per_draw: int) -> None:
    """Raises `InputError` if masks would move before each route has been drawn once, which takes `steps_per_draw` steps."""
    interval = config.routing.interval
    if interval != AUTO and interval < steps_per_draw:
        raise InputError(
            f"`routing.interval` should be at least {steps_per_draw}, or auto: a route is drawn only once in so many steps, and "
            f"should be trained with a new unit before it takes the next. Got {interval}."
        )


def fill_length(config: Config, facts: RunFacts, step_labels: StepLabels) -> tuple[Config, int]:
    """Chooses the number of steps; guesses it for a run of so many minutes, until its first steps show it."""
    if not config.train.minutes:
        config = fill.fill_steps(config, facts, step_labels.labels_per_step)
        return config, chosen(config.train.steps)
    return config, fill.guess_steps(config, facts, step_labels.images_per_step)


def inherit_from_checkpoint(config: Config, checkpoint: CheckpointInfo, num_ranks: int) -> Config:
    """Returns a config with the choices of the checkpoint's run. On another number of ranks, a step keeps about as many
    micro-steps, for which the learning rate was chosen."""
    earlier, train = read_saved(checkpoint.config), config.train
    values: dict[str, Any] = {}
    if (train.epochs, train.steps, train.minutes) == (AUTO, AUTO, 0):
        values = {"train.steps": earlier.train.steps, "train.minutes": earlier.train.minutes}
    if train.accumulate == AUTO:
        num_slots = checkpoint.world_size * chosen(earlier.train.accumulate)
        values["train.accumulate"] = config.data.share * max(1, round(num_slots / num_ranks / config.data.share))
    return with_settings(fill.inherit(config, earlier), values)


def count_labelled(
    labels: Labels, labelled: Mapping[int, Members], fills: np.ndarray, route: int, tasks: Sequence[int]
) -> int:
    """Returns how many samples carry a label for one of a route's tasks, or have one filled; `labelled` are those of routes that
    are known already."""
    if route in labelled:
        return labelled[route].count
    is_filled = any(fills[task] != MISSING for task in tasks)
    return labels.num_samples if is_filled else labels.count_samples(tasks)


def measure_rarest(data: RunData, config: EvalConfig) -> float:
    """Returns how many samples of its rarest class a task has in the split of evaluations, the median over the tasks that means
    are over and of which two classes occur; infinite if there is no such task, or no such split."""
    if config.split not in data.manifest.splits:
        return math.inf
    counts = data.count_classes(config.split)
    rarest = [
        int(count[count > 0].min()) for count in counts if (count > 0).sum() > 1 and count.min() >= config.min_count
    ]
    return float(np.median(rarest)) if rarest else math.inf


def measure_slot(config: Config, num_samples: int, sizes: np.ndarray) -> np.ndarray:
    """Returns the images that a slot of each route trains on, on average, shape `(num_routes,)`.

    Args:
        config: With the batch size chosen.
        num_samples: Training samples with a label.
        sizes: Those with a label for each route, shape `(num_routes,)`.
    """
    batch_size = chosen(config.data.batch_size)
    own: np.ndarray = np.minimum(batch_size, sizes)
    return own if config.data.share == 1 else min(batch_size, num_samples) * sizes / max(num_samples, 1)


def measure_step(
    sampler: RouteSampler, images: np.ndarray, labels_per_image: np.ndarray, num_labels: int
) -> StepLabels:
    """Returns what a step trains on average.

    Args:
        sampler: Draws the routes of a step.
        images: Images of a slot of each route, shape `(num_routes,)`.
        labels_per_image: Labels of an image for each route, shape `(num_routes,)`.
        num_labels: Training labels of all tasks.
    """
    drawn = sampler.route_ids
    shares = np.zeros(len(images))
    shares[drawn] = 1 / sampler.num_routes if sampler.probabilities is None else sampler.probabilities
    return StepLabels(
        slots_per_step=sampler.num_slots,
        shares=shares,
        images=images,
        labels=images * labels_per_image,
        num_labels=num_labels,
    )
