"""A training run: build, resume, loop, save, close."""

import contextlib
from collections.abc import Callable, Generator
from dataclasses import asdict, dataclass, replace
from typing import TypeVar, cast

import numpy as np
import pyarrow as pa
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from matl_scale.config import Config, walk
from matl_scale.data.augment import build_augment
from matl_scale.data.loader import ImageBatch, Source, TrainBatches, build_loader
from matl_scale.data.plan import SlotPlan, TaskOrder
from matl_scale.data.stream import StreamBatches
from matl_scale.errors import InputError, shortened
from matl_scale.metrics import TaskMetrics
from matl_scale.models import RoutedModel
from matl_scale.routing.surgery import kept_share
from matl_scale.tracking.recorder import Recorder
from matl_scale.train.checkpoint import (
    CheckpointInfo,
    check_network,
    check_resumable,
    hash_masks,
    load_state,
)
from matl_scale.train.damaged import share_damage
from matl_scale.train.evaluate import Evaluator
from matl_scale.train.execution import TrunkExecution
from matl_scale.train.inherit import (
    check_start,
    describe_start,
    earlier_masks,
    find_start,
    load_masks,
    rows_of,
    take_over,
)
from matl_scale.train.meter import Meter
from matl_scale.train.optim import build_optimizer, learning_rate, set_learning_rate
from matl_scale.train.progress import TrainProgress
from matl_scale.train.run_folder import changes_since, find_checkpoint, open_folder, save_state
from matl_scale.train.sampling import TaskSampler, build_sampler
from matl_scale.train.setup import TRAIN_SPLIT, RunData, build_network, open_data, resolve_config
from matl_scale.train.state import TrainState, build_ema
from matl_scale.train.step import TrainStep

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class RunOutcome:
    """What a run ends with: the last evaluation, the steps done, and the task names."""

    metrics: TaskMetrics
    step: int
    tasks: list[str]


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What the loop works with, built from the config; none of it is changed but the state."""

    state: TrainState
    train_step: TrainStep
    sampler: TaskSampler
    order: TaskOrder
    batches: Generator[ImageBatch, None, None]
    evaluator: Evaluator
    images_per_step: int
    epochs_per_step: float


def train(config: Config, accelerator: Accelerator) -> RunOutcome:
    """Trains a run to its last step, from its newest checkpoint if `run.resume` says so.

    Args:
        config: Equal on all ranks.
        accelerator: From `build_accelerator`.

    Raises:
        InputError: The config, the shard set and the run's folder do not fit together.
    """
    config = resolve_config(config)
    checkpoint = on_main(accelerator, lambda: find_checkpoint(config))
    config = choose_version(config, checkpoint)
    data = open_data(config)
    config = replace(config, data=replace(config.data, version=str(data.manifest.version)))
    check_train_data(data, config, accelerator.num_processes)
    config.track.curve_tasks(data.task_names)
    start = on_main(accelerator, lambda: None if checkpoint else find_start(config))
    parts = build_parts(config, data, accelerator, checkpoint, start)
    state = parts.state
    progress = TrainProgress(state.step, config.train.steps, accelerator.is_main_process)
    if state.step >= config.train.steps:
        progress.say(f"{config.run.folder} is complete: {state.step} of {config.train.steps} steps")
        return RunOutcome(metrics=parts.evaluator(), step=state.step, tasks=data.task_names)

    with contextlib.ExitStack() as stack:
        on_main(accelerator, lambda: open_folder(config, kept_share(state.model.trunk), state.step, stack))
        if checkpoint:
            changes = changes_since(checkpoint, config, data, accelerator.num_processes)
            progress.say("\n  ".join([f"going on from {checkpoint.folder}", *changes]))
        elif start:
            progress.say(describe_start(start, rows_of(start, data)))
        params = dict(walk(config)) | {"manifest_id": data.manifest.id, "world_size": accelerator.num_processes}
        recorder = Recorder(config.run.folder, config.track, params, data.task_names, accelerator.is_main_process)
        if config.data.balance:
            recorder.balance(balance_table(parts.order, data))
        status = "FAILED"
        try:
            with progress:
                metrics = run_steps(config, accelerator, parts, recorder, progress, data)
            status = "FINISHED"
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        finally:
            parts.batches.close()
            recorder.close(status)
    return RunOutcome(metrics=metrics, step=state.step, tasks=data.task_names)


def run_steps(
    config: Config, accelerator: Accelerator, parts: Parts, recorder: Recorder, progress: TrainProgress, data: RunData
) -> TaskMetrics:
    """Runs the remaining steps, with records, evaluations and checkpoints where they are due."""
    state, meter = parts.state, Meter(parts.images_per_step)
    damage = data.damage_log(TRAIN_SPLIT)
    for step in range(state.step, config.train.steps):
        rate = learning_rate(config.optim, step, config.train.steps)
        set_learning_rate(state.optimizer, rate)
        turn = state.turn(parts.sampler.num_slots)
        tasks = parts.sampler.tasks(turn)
        result = parts.train_step(tasks, parts.batches)
        meter.update(result)
        if result.sync.damaged.any():  # known to all ranks
            share_damage(accelerator, damage, result.damage, config.run.folder)
        if state.ema is not None:
            state.ema.update_parameters(state.model)
        state.step, state.slots = step + 1, (turn + 1) * parts.sampler.num_slots
        np.add.at(state.draws, tasks, 1)
        is_last = state.step == config.train.steps
        progress.step(state.step, meter.loss, meter.images_per_s, meter.wait_share)
        if is_due(state.step, config.track.every) or is_last:
            recorder.record(state.step, meter.record() | describe_position(parts, rate))
        with meter.paused():
            if is_due(state.step, config.eval.every) or is_last:
                metrics = parts.evaluator()
                record_evaluation(config.eval.split, metrics, state, recorder, progress)
                for log in (damage, parts.evaluator.data.damage):
                    if log.found:
                        progress.say(log.describe())
            if is_due(state.step, config.checkpoint.every) or is_last:
                on_main(accelerator, lambda: save_state(config, data, state, accelerator.num_processes))
    return metrics


def choose_version(config: Config, checkpoint: CheckpointInfo | None) -> Config:
    """Returns the config with the version of labels that a run goes on with: its own, unless another one is asked for."""
    if checkpoint is None or config.data.version:
        return config
    version = checkpoint.config["data"].get("version", "")
    return replace(config, data=replace(config.data, version=version))


def balance_table(order: TaskOrder, data: RunData) -> pa.Table:
    """Returns the share of the draws that each class of each task gets, beside its samples."""
    rows = []
    for task_id, task in enumerate(data.tasks):
        for name, count, share in zip(task.classes, *order.class_weights(task_id), strict=False):
            rows.append({"task": task.name, "class": name, "samples": int(count), "share": float(share)})
    return pa.Table.from_pylist(rows)


def describe_position(parts: Parts, rate: float) -> dict[str, float]:
    """Returns the run-level metrics that say how far the run is."""
    state = parts.state
    return {
        "train/lr": rate,
        "train/epoch": state.step * parts.epochs_per_step,
        "tasks/draws_min": float(state.draws.min()),
        "tasks/draws_max": float(state.draws.max()),
    }


def record_evaluation(
    split: str, metrics: TaskMetrics, state: TrainState, recorder: Recorder, progress: TrainProgress
) -> None:
    """Records an evaluation and says in one line how it went."""
    summary = metrics.summary()
    recorder.draws(state.step, state.draws)
    recorder.evaluation(state.step, split, summary, metrics.values, metrics.counts)
    progress.say(
        f"step {state.step}: {split} balanced accuracy {summary['macro_balanced_accuracy']:.4f}, "
        f"AUROC {summary['macro_auroc']:.4f}, below baseline {summary['tasks_below_baseline']:.0f} of "
        f"{len(metrics.counts)} tasks"
    )


def is_due(step: int, every: int) -> bool:
    """Returns whether something that happens every `every` steps happens after `step`; never if `every` is 0."""
    return every > 0 and step % every == 0


def on_main(accelerator: Accelerator, function: Callable[[], Result]) -> Result:
    """Runs `function` on the first rank only; every rank gets its result, or its `InputError`."""
    outcome: list[object] = [None, None]
    if accelerator.is_main_process:
        try:
            outcome[0] = function()
        except InputError as error:
            outcome[1] = str(error)
    broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise InputError(outcome[1])
    return cast(Result, outcome[0])


def check_train_data(data: RunData, config: Config, world_size: int) -> None:
    """Raises `InputError` where the training split cannot feed the run."""
    data.manifest.check_shards(TRAIN_SPLIT)
    empty = np.flatnonzero(data.count_labelled(TRAIN_SPLIT) == 0)
    if len(empty):
        raise InputError(
            f"Split `{TRAIN_SPLIT}` of {data.manifest.root} has no label for {len(empty)} tasks: "
            f"{shortened(data.tasks[i].name for i in empty)}. Leave them out with `data.tasks`."
        )
    if data.manifest.splits[TRAIN_SPLIT] < 2:
        raise InputError(
            f"Split `{TRAIN_SPLIT}` of {data.manifest.root} should have at least 2 samples, for batch norm."
        )
    shards = data.manifest.shards["split"].to_pylist().count(TRAIN_SPLIT)
    readers = world_size * max(config.data.workers, 1)
    if config.data.reading == "stream" and shards < readers:
        raise InputError(
            f"`data.reading` stream should have a tar for each of {world_size} ranks × {readers // world_size} workers. Split "
            f"`{TRAIN_SPLIT}` of {data.manifest.root} has {shards}: use fewer workers, `data.reading` offsets, or smaller shards "
            "(matl-data's --shard-mb)."
        )


def build_start(
    config: Config,
    data: RunData,
    accelerator: Accelerator,
    checkpoint: CheckpointInfo | None,
    start: CheckpointInfo | None,
) -> RoutedModel:
    """Builds the network of a run: to be loaded from its checkpoint, with the weights of another run, or new."""
    if checkpoint:
        return build_network(config, data, accelerator.device, load_masks(checkpoint, data))
    if start is None:
        return build_network(config, data, accelerator.device)
    check_start(start, asdict(config), data)
    state = load_state(start)
    config = replace(config, model=replace(config.model, pretrained=False))
    model = build_network(config, data, accelerator.device, earlier_masks(start, state, data))
    take_over(model, state, rows_of(start, data))
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
        check_resumable(checkpoint, config=asdict(config), shards=data.hash_shards(TRAIN_SPLIT))
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
        state.load_state_dict(load_state(checkpoint))
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
        images_per_step=num_slots * config.data.batch_size,
        epochs_per_step=num_slots * config.data.batch_size / len(rows),
    )
