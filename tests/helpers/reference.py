"""A step by the book: one process runs the slots one after the other on fresh copies, and averages. Slow and obvious."""

import copy

import numpy as np
import torch

from helpers.shard_sets import ShardSet
from matl_scale.data.loading.plan import TaskOrder
from matl_scale.models.network import RoutedModel, build_model
from matl_scale.train.config import Config
from matl_scale.train.step.optim import LearningRate, build_optimizer, set_learning_rate
from matl_scale.train.step.sampling import build_sampler


def reference_run(config: Config, data: ShardSet, num_slots: int, dtype: torch.dtype = torch.float64) -> RoutedModel:
    """Trains and returns the network after the last step. `dtype` decides the draws of the initial weights too."""
    torch.set_default_dtype(dtype)
    try:
        return run_steps(config, data, num_slots)
    finally:
        torch.set_default_dtype(torch.float32)


def run_steps(config: Config, data: ShardSet, num_slots: int) -> RoutedModel:
    manifest = data.manifest
    labels = manifest.labels()
    image_index = [int(path[-7:-4]) for path in manifest.samples["path"].to_pylist()]
    labelled = (labels[manifest.sample_ids("train")] >= 0).sum(axis=0)
    order = TaskOrder(
        config.run.seed, config.data.batch_size, labels, manifest.sample_ids("train"), config.data.balance
    )
    draws = [0] * len(manifest.tasks)
    sampler = build_sampler(config.tasks, manifest.task_names, labelled, config.run.seed, num_slots)
    model = build_model(
        config.model, config.routing, [task.num_classes for task in manifest.tasks], config.run.seed, 16
    )
    optimizer = build_optimizer(config.optim, model)
    for step in range(config.train.steps):
        slots = []
        for task in sampler.tasks(step).tolist():
            sample_ids = order.batch(task, draws[task])
            draws[task] += 1
            pixels = torch.from_numpy(data.pixels[[image_index[i] for i in sample_ids]])
            slots.append((task, *run_slot(model, task, pixels, torch.from_numpy(labels[sample_ids, task]).long())))
        take_step(model, optimizer, slots, config, step)
    return model


Gradients = dict[str, torch.Tensor]


def run_slot(
    model: RoutedModel, task: int, pixels: torch.Tensor, labels: torch.Tensor
) -> tuple[Gradients, Gradients, int]:
    """Returns gradients by name, changes of buffers by name, and the number of labelled samples of one slot."""
    copied = copy.deepcopy(model).train()
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    images = ((pixels.to(mean.dtype) / 255 - mean) / std).permute(0, 3, 1, 2)
    labelled = torch.nonzero(labels >= 0).flatten()
    if len(labelled) == 0:
        return {}, {}, 0
    if len(labelled) == 1:
        companion = torch.nonzero(labels < 0).flatten()[:1]
        images = images[torch.cat([labelled, companion])]
    else:
        images = images[labelled]
    logits = copied(images, task)[: len(labelled)]
    torch.nn.functional.cross_entropy(logits, labels[labelled]).backward()
    gradients = {name: p.grad for name, p in copied.named_parameters() if p.grad is not None}
    before = dict(model.named_buffers())
    changes = {name: buffer - before[name] for name, buffer in copied.named_buffers() if is_statistic(name)}
    return gradients, changes, len(labelled)


def take_step(
    model: RoutedModel,
    optimizer: torch.optim.Optimizer,
    slots: list[tuple[int, Gradients, Gradients, int]],
    config: Config,
    step: int,
) -> None:
    ran = {task: [slot for slot in slots if slot[0] == task and slot[3]] for task, *_ in slots}
    for name, parameter in model.named_parameters():
        if name.startswith("heads."):
            runs = ran.get(int(name.split(".")[1]), [])
            parameter.grad = sum(slot[1][name] for slot in runs) / len(runs) if runs else None
        else:
            parameter.grad = sum(slot[1].get(name, torch.zeros_like(parameter)) for slot in slots) / len(slots)
    if config.train.clip_norm:
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.train.clip_norm)
    rate = LearningRate(peak=config.optim.lr, warmup_steps=config.optim.warmup_steps, num_steps=config.train.steps)
    set_learning_rate(optimizer, rate.at(step))
    optimizer.step()
    for task, runs in ran.items():
        if runs:
            for name, buffer in model.named_buffers():
                if is_statistic(name) and len(buffer) > 1:
                    buffer[task] += sum(slot[2][name][task] for slot in runs) / len(runs)
    everyone = [slot for slot in slots if slot[3]]
    for name, buffer in model.named_buffers():
        if is_statistic(name) and len(buffer) == 1 and everyone:
            # shared statistics: a slot changes only the units of its task
            updates = sum(slot[2][name.rpartition(".")[0] + ".num_updates"][0] for slot in everyone)
            buffer[0] += sum(slot[2][name][0] for slot in everyone) / updates.clamp(min=1)


def is_statistic(name: str) -> bool:
    return name.rpartition(".")[2] in ("running", "num_updates")


def largest_difference(state: dict[str, torch.Tensor], model: RoutedModel) -> tuple[float, str]:
    """Returns the largest absolute difference between a saved state and a network, and the tensor's name."""
    wanted = model.state_dict()
    assert state.keys() == wanted.keys()
    gaps = [((value.double() - wanted[name].double()).abs().max().item(), name) for name, value in state.items()]
    return max(gaps)


def counts_of_draws(config: Config, num_slots: int, num_tasks: int) -> np.ndarray:
    sampler = build_sampler(
        config.tasks, [f"task_{i}" for i in range(num_tasks)], np.ones(num_tasks), config.run.seed, num_slots
    )
    drawn = np.concatenate([sampler.tasks(step) for step in range(config.train.steps)])
    return np.bincount(drawn, minlength=num_tasks)
