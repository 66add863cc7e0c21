"""A step by the book: one process runs the slots one after the other on fresh copies, and averages. Slow and obvious."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.func import functional_call

from helpers.reference_importance import Importance, add_slot, carve, find_tied, gates_of
from helpers.reference_losses import TaskReference, build_references
from helpers.reference_moves import move_reference
from helpers.shard_sets import ShardSet
from matl_scale.data.loading.missing import choose_fills
from matl_scale.data.loading.plan import RouteOrder
from matl_scale.data.shards.labels import Labels
from matl_scale.models.network import RoutedModel, build_model
from matl_scale.routes import Routes
from matl_scale.routing.batch_norm import route_norms
from matl_scale.routing.masks import EarlierMasks
from matl_scale.routing.move import stream_masks
from matl_scale.seeds import derive_seed
from matl_scale.train.choose_routes import TrainLabels, choose_routes
from matl_scale.train.config import Config
from matl_scale.train.length import Length
from matl_scale.train.masks.moves import Moves, draw_move
from matl_scale.train.step.optim import LearningRate, build_optimizer, set_learning_rate
from matl_scale.train.step.sampling import build_sampler


@dataclass(frozen=True)
class Reference:
    """The outcome of a run."""

    model: RoutedModel  # the network after the last step
    draws: list[int]  # slots that each route has had
    labels_seen: list[int]  # labels that each task has been trained on


def reference_run(config: Config, data: ShardSet, num_slots: int, dtype: torch.dtype = torch.float64) -> Reference:
    """Trains a network to the last step. `dtype` decides the draws of the initial weights too."""
    torch.set_default_dtype(dtype)
    try:
        return run_steps(config, data, num_slots)
    finally:
        torch.set_default_dtype(torch.float32)


def run_steps(config: Config, data: ShardSet, num_slots: int) -> Reference:
    manifest, seed = data.manifest, config.run.seed
    all_labels, train = manifest.labels(), manifest.sample_ids("train")
    labels, classes = all_labels[train], [task.num_classes for task in manifest.tasks]
    image_index = [int(path[-7:-4]) for path in manifest.samples["path"].to_pylist()]
    routes = choose_routes(
        config.routing, TrainLabels(tasks=manifest.tasks, labels=Labels.of_matrix(labels), seed=seed)
    ).routes
    costs = build_references(config.loss, config.data.missing, manifest.tasks, labels)
    shares, num_samples = shares_of_targets(labels, routes, costs)
    fills = choose_fills(config.data.missing, manifest.tasks, config.data.balance)
    order = RouteOrder(
        seed, config.data.batch_size, Labels.of_matrix(all_labels).of_samples(train), routes, config.data.balance, fills
    )
    sampler = build_sampler(config.tasks, routes.names, np.array(num_samples), seed, num_slots)

    def build(earlier: EarlierMasks | None = None) -> tuple[RoutedModel, torch.optim.Optimizer]:
        model = build_model(config.model, config.routing, classes, seed, 16, routes, earlier)
        return model, build_optimizer(config.optim, model)

    model, optimizer = build()
    start_heads(model, costs, seed if routes.num_routes <= num_slots else None)
    moves = Moves()
    draws, labels_seen = [0] * routes.num_routes, [0] * routes.num_tasks
    is_dense = config.routing.strategy == "magnitude"
    importance: Importance = [{} for _ in range(routes.num_routes)]
    tied = find_tied(config, model) if is_dense else {}
    for step in range(config.train.steps):
        if config.routing.strategy == "roaming" and step and step % config.routing.interval == 0:
            masks = stream_masks(model.trunk)
            moved, exchanged = draw_move(masks, moves.tried(masks), seed, len(moves.steps))
            moves.add(step, exchanged)
            model, optimizer = move_reference(model, optimizer, masks, moved, build)
        slots, batches = [], []
        progress = step / config.train.steps
        if is_dense and progress >= config.routing.dense_share:
            model, moments, is_dense = carve(config, model, importance), optimizer.state_dict(), False
            optimizer = build_optimizer(config.optim, model)
            optimizer.load_state_dict(moments)
        for route in sampler.routes(step).tolist():
            if config.data.share > 1:
                sample_ids = order.shared_batch(sum(draws) // config.data.share)
            else:
                sample_ids = order.batch(route, draws[route])
            draws[route] += 1
            for task in routes.tasks_of[route]:
                labels_seen[task] += sum(all_labels[sample, task] >= 0 for sample in sample_ids.tolist())
            pixels = torch.from_numpy(data.pixels[[image_index[sample] for sample in sample_ids]])
            targets = torch.from_numpy(all_labels[sample_ids][:, routes.tasks_of[route]]).long()
            batches.append((route, pixels, targets))
        if config.routing.statistics == "step":
            slots = run_joint(model, batches, shares, costs)
        else:
            slots = [run_slot(model, *batch, shares, costs) for batch in batches]
        if is_dense and progress + 1 / config.train.steps > config.routing.dense_share / 2:
            for slot in slots:
                if slot.num_labelled:
                    add_slot(importance, tied, slot.route, gates_of(model, slot.route, slot.gradients))
        take_step(model, optimizer, slots, config, step)
    return Reference(model, draws, labels_seen)


@torch.no_grad()
def start_heads(model: RoutedModel, costs: Sequence[TaskReference], seed: int | None) -> None:
    """Gives heads their first values: of weights zeros, or with a seed what `nn.Linear` draws."""
    for number, (tasks, head) in enumerate(zip(model.routes.tasks_of_head, model.heads, strict=True)):
        head.bias.copy_(torch.tensor([x for task in tasks for x in costs[task].first_logits()]))
        if seed is not None:
            generator = torch.Generator().manual_seed(derive_seed(seed, "head", number))
            bound = head.in_features**-0.5
            drawn = torch.empty(head.weight.shape, dtype=torch.float32)
            head.weight.copy_(drawn.uniform_(-bound, bound, generator=generator))


def shares_of_targets(
    labels: np.ndarray, routes: Routes, costs: Sequence[TaskReference]
) -> tuple[list[float], list[int]]:
    """Returns the share of its route's samples that each task is trained on, and how many samples each route has."""
    has = [[costs[task].has_target(label) for task, label in enumerate(row)] for row in labels.tolist()]
    num_samples = [sum(any(row[task] for task in tasks) for row in has) for tasks in routes.tasks_of]
    carrying = [sum(row[task] for row in has) for task in range(routes.num_tasks)]
    return [carrying[task] / num_samples[route] for task, route in enumerate(routes.route_of)], num_samples


def loss_of_route(
    routes: Routes,
    num_classes: Sequence[int],
    shares: Sequence[float],
    route: int,
    logits: torch.Tensor,
    labels: torch.Tensor,
    costs: Sequence[TaskReference],
) -> torch.Tensor:
    """Returns the mean over the route's tasks of Σ over samples with a target of their cost ÷ (samples × the task's share).

    `labels`, shape `(num_samples, num_tasks of the route)`, are those of the samples with a target for the route, which come
    first in `logits`. A task with a share of 0 is not trained, and left out of the mean.
    """
    tasks = routes.tasks_of[route]
    num_trained = sum(shares[task] > 0 for task in tasks)
    loss = 0.0 * logits.sum()
    start = 0
    for position, task in enumerate(tasks):
        columns = logits[:, start : start + num_classes[task]]
        start += num_classes[task]
        for sample, label in enumerate(labels[:, position].tolist()):
            if costs[task].has_target(label) and shares[task] > 0:
                loss = loss + costs[task].cost(columns[sample], label) / (len(labels) * shares[task]) / num_trained
    return loss


Gradients = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Slot:
    """What one slot did."""

    route: int
    num_labelled: int  # samples with a target for the route
    gradients: Gradients  # by name of the parameter
    changes: dict[str, torch.Tensor]  # changes of running statistics, by name of the buffer


def run_slot(
    model: RoutedModel,
    route: int,
    pixels: torch.Tensor,
    labels: torch.Tensor,
    shares: Sequence[float],
    costs: Sequence[TaskReference],
) -> Slot:
    """Runs a slot on copies of the network's tensors, with labels of shape `(batch, num_tasks of the route)`."""
    chosen, labelled = choose_samples(model, route, labels, costs)
    if not labelled:
        return Slot(route, 0, {}, {})
    parameters = {name: value.detach().clone().requires_grad_() for name, value in model.named_parameters()}
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    images = prepare(pixels[chosen])
    logits = functional_call(model.train(), {**parameters, **buffers}, (images, route))
    loss_of_route(model.routes, model.num_classes, shares, route, logits, labels[labelled], costs).backward()
    gradients = {name: value.grad for name, value in parameters.items() if value.grad is not None}
    return Slot(route, len(labelled), gradients, find_changes(model, buffers))


def run_joint(
    model: RoutedModel,
    batches: Sequence[tuple[int, torch.Tensor, torch.Tensor]],
    shares: Sequence[float],
    costs: Sequence[TaskReference],
) -> list[Slot]:
    """Runs all slots of a step as one batch, each given by its route, pixels and labels; the first one notes how statistics
    change."""
    chosen = [choose_samples(model, route, labels, costs) for route, _, labels in batches]
    images = [prepare(pixels[samples]) for (_, pixels, _), (samples, _) in zip(batches, chosen, strict=True)]
    sizes, route_ids = [len(part) for part in images], [route for route, _, _ in batches]
    by_image = torch.tensor([route for route, size in zip(route_ids, sizes, strict=True) for _ in range(size)])
    trunk = dict(model.trunk.named_parameters(prefix="trunk"))
    copies = {name: value.detach().clone().requires_grad_() for name, value in trunk.items()}
    buffers = {name: value.clone() for name, value in model.trunk.named_buffers(prefix="trunk")}
    tensors = {name.removeprefix("trunk."): value for name, value in (copies | buffers).items()}
    features = functional_call(model.trunk.train(), tensors, (torch.cat(images), by_image)).split(sizes)
    changes, slots = find_changes(model, buffers), []
    for part, (route, _, labels), (_, labelled) in zip(features, batches, chosen, strict=True):
        logits = model.classify(part, route)
        loss = loss_of_route(model.routes, model.num_classes, shares, route, logits, labels[labelled], costs)
        wanted = copies | dict(model.heads.named_parameters(prefix="heads"))
        found = torch.autograd.grad(loss, list(wanted.values()), retain_graph=True, allow_unused=True)
        gradients = {name: value for name, value in zip(wanted, found, strict=True) if value is not None}
        slots.append(Slot(route, len(labelled), gradients if labelled else {}, changes))
        if labelled:
            changes = {name: torch.zeros_like(value) for name, value in changes.items()}
    return slots


def prepare(pixels: torch.Tensor) -> torch.Tensor:
    """Returns the network's input for pixels, shape `(batch, height, width, 3)`."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    # contiguous: torch 2.13 (oneDNN 3.12) crashes on CPUs without AVX-512 in the backward pass of strided 1 × 1 convs of few
    # channels if these come last in memory
    return ((pixels.to(mean.dtype) / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()


def choose_samples(
    model: RoutedModel, route: int, labels: torch.Tensor, costs: Sequence[TaskReference]
) -> tuple[list[int], list[int]]:
    """Returns the samples of a batch that a slot runs, and those of them that have a target for its route, which come first.
    Batch norm needs a companion for a single one; without any, all run where others need their images."""
    tasks = model.routes.tasks_of[route]
    labelled = [
        sample
        for sample, row in enumerate(labels.tolist())
        if any(costs[task].has_target(label) for task, label in zip(tasks, row, strict=True))
    ]
    others = [sample for sample in range(len(labels)) if sample not in labelled]
    return labelled + {0: others, 1: others[:1]}.get(len(labelled), []), labelled


def find_changes(model: RoutedModel, buffers: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns what a pass has changed in the running statistics among copies of a network's buffers."""
    before = dict(model.named_buffers())
    return {name: value - before[name] for name, value in buffers.items() if is_statistic(name)}


def take_step(
    model: RoutedModel, optimizer: torch.optim.Optimizer, slots: list[Slot], config: Config, step: int
) -> None:
    counting = [slot for slot in slots if slot.num_labelled]
    for name, parameter in model.trunk.named_parameters(prefix="trunk"):
        nothing = torch.zeros_like(parameter)
        parameter.grad = sum(slot.gradients.get(name, nothing) for slot in slots) / len(slots)
    for head, tasks in enumerate(model.routes.tasks_of_head):
        runs = [slot for slot in counting if slot.route == model.routes.route_of[tasks[0]]]
        for name, parameter in model.heads[head].named_parameters(prefix=f"heads.{head}"):
            parameter.grad = sum(slot.gradients[name] for slot in runs) / len(runs) if runs else None
    for route, row in enumerate(model.affine.rows if model.affine is not None else []):
        runs = [slot for slot in counting if slot.route == route]
        row.grad = sum(slot.gradients[f"affine.rows.{route}"] for slot in runs) / len(runs) if runs else None
    if config.train.clip_norm:
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.train.clip_norm)
    length = Length(num_steps=config.train.steps)
    rate = LearningRate(peak=config.optim.lr, warmup_steps=config.optim.warmup_steps, length=length)
    set_learning_rate(optimizer, rate, step)
    optimizer.step()
    change_statistics(model, counting)


def change_statistics(model: RoutedModel, slots: list[Slot]) -> None:
    """Adds the mean change over the slots: to a row of a route over those that ran it; where all routes have one row, to each
    unit over those that used it."""
    names = {id(buffer): name for name, buffer in model.named_buffers()}
    for norm in route_norms(model):
        running, updates = names[id(norm.running)], names[id(norm.num_updates)]
        if norm.statistics == "shared":
            if slots:
                counts = sum(slot.changes[updates][0] for slot in slots).clamp(min=1)
                for buffer, name in ((norm.running, running), (norm.num_updates, updates)):
                    buffer[0] += sum(slot.changes[name][0] for slot in slots) / counts
            continue
        for route in {slot.route for slot in slots}:
            runs = [slot for slot in slots if slot.route == route]
            for buffer, name in ((norm.running, running), (norm.num_updates, updates)):
                buffer[route] += sum(slot.changes[name][route] for slot in runs) / len(runs)


def is_statistic(name: str) -> bool:
    return name.rpartition(".")[2] in ("running", "num_updates")


def largest_difference(state: dict[str, torch.Tensor], model: RoutedModel) -> tuple[float, str]:
    """Returns the largest absolute difference between a saved state and a network, and the tensor's name."""
    wanted = model.state_dict()
    assert state.keys() == wanted.keys()
    gaps = [((value.double() - wanted[name].double()).abs().max().item(), name) for name, value in state.items()]
    return max(gaps)
