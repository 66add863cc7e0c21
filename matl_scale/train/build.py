"""What the loop of a run works with, built from the config and checked against the data."""

from collections.abc import Generator
from dataclasses import asdict, dataclass, replace

import numpy as np
import pyarrow as pa
import torch
from accelerate import Accelerator

from matl_scale.data.loading.augment import build_augment
from matl_scale.data.loading.loader import ImageBatch, Source, TrainBatches, build_loader
from matl_scale.data.loading.plan import SlotPlan, TaskOrder
from matl_scale.data.loading.stream import StreamBatches
from matl_scale.device import resolve_precision
from matl_scale.errors import InputError
from matl_scale.models.network import RoutedModel, build_ema, build_model
from matl_scale.routing.masks import EarlierMasks
from matl_scale.runs.checkpoints.checkpoint import CheckpointInfo, load_state
from matl_scale.runs.checkpoints.compatibility import check_network, check_resumable
from matl_scale.runs.checkpoints.masks import earlier_masks, hash_masks, own_masks, rows_of
from matl_scale.train.config import Config
from matl_scale.train.evaluation import Evaluator
from matl_scale.train.meter import Meter
from matl_scale.train.resume.start_from import check_start, take_over
from matl_scale.train.run_data import TRAIN_SPLIT, RunData
from matl_scale.train.state import TrainState
from matl_scale.train.step.execution import TrunkExecution
from matl_scale.train.step.optim import build_optimizer
from matl_scale.train.step.sampling import TaskSampler, build_sampler
from matl_scale.train.step.train_step import TrainStep


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What the loop works with, built from the config; none of it is changed but the state."""

    state: TrainState
    meter: Meter
    train_step: TrainStep
    sampler: TaskSampler
    order: TaskOrder
    batches: Generator[ImageBatch, None, None]
    evaluator: Evaluator
    epochs_per_step: float


def build_start(
    config: Config,
    data: RunData,
    accelerator: Accelerator,
    checkpoint: CheckpointInfo | None,
    start: CheckpointInfo | None,
) -> RoutedModel:
    """Builds the network of a run: to be loaded from its checkpoint, with the weights of another run, or new."""
    if checkpoint:
        masks = own_masks(checkpoint, load_state(checkpoint), data.task_names)
        return build_network(config, data, accelerator.device, masks)
    if start is None:
        return build_network(config, data, accelerator.device)
    check_start(start, asdict(config), data)
    state = load_state(start)
    config = replace(config, model=replace(config.model, pretrained=False))
    model = build_network(config, data, accelerator.device, earlier_masks(start, state, data.task_names))
    take_over(model, state, rows_of(start, data.task_names))
    return model


def build_parts(
    config: Config,
    data: RunData,
    accelerator: Accelerator,
    checkpoint: CheckpointInfo | None,
    start: CheckpointInfo | None,
) -> Parts:
    """Builds network, optimizer, sampler and loader, and puts a checkpoint's state into them."""
    world_size, rank = accelerator.num_processes, accelerator.process_index
    model = build_start(config, data, accelerator, checkpoint, start)
    if checkpoint:
        check_network(checkpoint, tasks=data.num_classes, masks=hash_masks(model))
        check_resumable(checkpoint, config=asdict(config), shards=data.manifest.hash_shards(TRAIN_SPLIT))
    ema = build_ema(model, config.train.ema_decay)
    trunk = TrunkExecution(accelerator, model.trunk, config.routing.execution, config.train.compile)
    fused = config.train.precision != "fp16"
    optimizer = accelerator.prepare_optimizer(build_optimizer(config.optim, model, fused))
    state = TrainState(
        model=model,
        optimizer=optimizer,
        scaler=accelerator.scaler,
        ema=ema,
        draws=np.zeros(len(data.tasks), dtype=np.int64),
    )
    if checkpoint:
        saved = load_state(checkpoint)
        if "optimizer" not in saved:
            raise InputError(
                f"`run.resume`: {checkpoint.folder} holds a network alone. Use a folder of `checkpoints`, or `run.start_from`."
            )
        state.load_state_dict(saved)
    num_slots = world_size * config.train.accumulate
    rows = data.manifest.rows(TRAIN_SPLIT)
    order = TaskOrder(config.run.seed, config.data.batch_size, data.labels, rows, config.data.balance)
    sampler = build_sampler(config.tasks, data.task_names, data.count_labelled(TRAIN_SPLIT), config.run.seed, num_slots)
    plan = SlotPlan(order, sampler.tasks, world_size, state.turn(num_slots), state.draws)
    source: Source = TrainBatches(plan, data.reader, rank)
    if config.data.reading == "stream":
        source = StreamBatches(data.manifest, TRAIN_SPLIT, plan, data.reader, rank, config.data.stream_buffer)
    pin = accelerator.device.type == "cuda"
    return Parts(
        state=state,
        meter=Meter(state.tally, num_slots * config.data.batch_size),
        train_step=TrainStep(
            accelerator=accelerator,
            model=model,
            trunk=trunk,
            optimizer=optimizer,
            labels=data.labels,
            transform=build_augment(config.data.augment, data.image_size),
            config=config.train,
            seed=config.run.seed,
        ),
        sampler=sampler,
        order=order,
        batches=build_loader(source, data.image_size, config.data.workers, pin),
        evaluator=Evaluator(
            accelerator,
            state.evaluated,
            data.evaluation(config.eval.split),
            config.eval,
            config.routing.execution,
            config.train.channels_last,
            config.run.folder,
        ),
        epochs_per_step=num_slots * config.data.batch_size / len(rows),
    )


def balance_table(order: TaskOrder, data: RunData) -> pa.Table:
    """Returns the share of the draws that each class of each task gets, beside its samples."""
    rows = []
    for task_id, task in enumerate(data.tasks):
        for name, count, share in zip(task.classes, *order.class_weights(task_id), strict=False):
            rows.append({"task": task.name, "class": name, "samples": int(count), "share": float(share)})
    return pa.Table.from_pylist(rows)


def resolve_config(config: Config) -> Config:
    """Returns the config with every automatic choice made, as the run's folder keeps it."""
    return replace(config, train=replace(config.train, precision=resolve_precision(config.train.precision)))


def build_network(
    config: Config, data: RunData, device: torch.device, earlier: EarlierMasks | None = None
) -> RoutedModel:
    """Builds the network of a run on a device, with the masks that its tasks bring along, if they do."""
    model = build_model(config.model, config.routing, data.tasks, config.run.seed, data.image_size, earlier)
    model.to(device=device, dtype=torch.get_default_dtype())
    if config.train.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model
