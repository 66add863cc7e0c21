"""Builds what the loop of a run works with. These functions alone take values out of a `Config` and hand them on."""

from collections.abc import Generator
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from matl_scale.automatic import chosen
from matl_scale.data.loading.augment import build_augment
from matl_scale.data.loading.damage import DamageLog
from matl_scale.data.loading.loader import ImageBatch, Source, TrainBatches, build_loader
from matl_scale.data.loading.missing import choose_fills
from matl_scale.data.loading.plan import RouteOrder, SlotPlan
from matl_scale.data.loading.stream import StreamBatches
from matl_scale.errors import InputError
from matl_scale.models.network import RoutedModel, build_ema, build_model, move_model
from matl_scale.models.pretrained import fetch_weights
from matl_scale.routes import Routes
from matl_scale.routing.masks import EarlierMasks
from matl_scale.runs.checkpoints.checkpoint import CheckpointInfo, load_state
from matl_scale.runs.checkpoints.compatibility import check_network
from matl_scale.runs.checkpoints.masks import hash_masks, masks_of_checkpoint
from matl_scale.runs.layout import RunFolder
from matl_scale.tracking.recorder import Recorder
from matl_scale.train.build_losses import build_balance_table, build_losses, collect_offsets
from matl_scale.train.config import Config
from matl_scale.train.evaluation import EvalData, Evaluator
from matl_scale.train.health.nonfinite import NonfiniteGuard
from matl_scale.train.keep_evaluation import EvaluationKeeper
from matl_scale.train.length import PARTS_TO_FIT, Length
from matl_scale.train.losses.task_loss import TaskLoss
from matl_scale.train.meter import Meter
from matl_scale.train.resolve import ResolvedRun
from matl_scale.train.resume.check_config import check_resumable, check_start
from matl_scale.train.resume.open_run import OpenedRun
from matl_scale.train.resume.saving import Saver
from matl_scale.train.resume.start_from import copy_weights, find_frozen_tasks
from matl_scale.train.run_data import TRAIN_SPLIT, RunData
from matl_scale.train.schedule import Schedule
from matl_scale.train.state import TrainState
from matl_scale.train.step.execution import TrunkExecution
from matl_scale.train.step.freeze import FrozenPart
from matl_scale.train.step.frozen_trunk import keep_statistics
from matl_scale.train.step.optim import LearningRate, build_optimizer
from matl_scale.train.step.sampling import RouteSampler, build_sampler
from matl_scale.train.step.train_step import TrainStep


@dataclass(frozen=True, kw_only=True)
class Components:
    """What the loop works with. Only the state changes."""

    state: TrainState  # what a checkpoint holds
    schedule: Schedule  # what is due after which step
    learning_rate: LearningRate  # as a function of the step
    meter: Meter  # measures the steps
    train_step: TrainStep  # computes a step
    sampler: RouteSampler  # says which route runs in which slot
    order: RouteOrder  # the batches of every route
    losses: list[TaskLoss]  # the loss of every task
    batches: Generator[ImageBatch, None, None]  # this rank's batches, without end
    damage: DamageLog  # log of damaged training samples
    nonfinite: NonfiniteGuard  # counts steps with numbers that are not finite
    evaluator: Evaluator  # evaluates the network
    split: str  # the split that it evaluates
    saver: Saver  # writes checkpoints and best networks
    keeper: EvaluationKeeper  # fits decisions and keeps what an evaluation found
    epochs_per_step: float  # passes over the labels of the training split per step


def build_length(config: Config, guess: int) -> Length:
    """Builds the length of a run; `guess` is about the number of steps of a run of so many minutes."""
    if config.train.minutes:
        # with a guess of very few steps, the first of them would use up the schedule of the learning rate before it is corrected
        return Length(num_steps=max(guess, PARTS_TO_FIT), seconds=config.train.minutes * 60)
    return Length(num_steps=chosen(config.train.steps))


def build_schedule(config: Config, length: Length) -> Schedule:
    return Schedule(
        length=length,
        record_every=config.track.every,
        evaluate_every=config.eval.every,
        checkpoint_every=config.checkpoint.every,
        compare_every=config.guard.replicas_every,
    )


def build_network(
    config: Config, data: RunData, routes: Routes, device: torch.device, earlier: EarlierMasks | None = None
) -> RoutedModel:
    """Builds the network of a run on a device; its routes keep the masks that they had in an earlier network, if any."""
    model = build_model(
        config.model,
        config.routing,
        list(data.num_classes.values()),
        config.run.seed,
        data.image_size,
        routes,
        earlier,
    )
    return move_model(model, device, config.train.channels_last)


def build_state(
    config: Config, data: RunData, routes: Routes, accelerator: Accelerator, opened: OpenedRun, length: Length
) -> tuple[TrainState, TrunkExecution]:
    """Builds the state in which a run starts or resumes, and the execution of its trunk.

    There are three cases:
    1. a checkpoint of this run: everything comes from it;
    2. a checkpoint of another run (`run.start_from`): the network comes from it, as far as it goes; the rest is new;
    3. neither: everything is new, or torchvision's weights (`model.pretrained`), which the other cases do not ask for.

    Raises:
        InputError: The checkpoint does not fit.
    """
    source = opened.checkpoint or opened.start
    saved = load_state(source) if source else {}
    if opened.start:
        check_start(opened.start, config, data.tasks)
    if source:
        config = without_download(config)
    elif config.model.pretrained:
        fetch_on_every_machine(config.model.name, accelerator)
    earlier = masks_of_checkpoint(source, saved, routes.names) if source and opened.has_masks else None
    model = build_network(config, data, routes, accelerator.device, earlier)
    if opened.start:
        copy_weights(model, saved, opened.start, data.task_names)
    if opened.checkpoint:
        check_checkpoint(opened.checkpoint, config, data, model)
    ema = build_ema(model, config.train.ema_decay)
    is_frozen = config.run.freeze == "trunk"
    if is_frozen and config.model.pretrained:
        keep_statistics(model.trunk)
    execution, compiled = config.routing.execution, config.train.compile
    trunk = TrunkExecution(accelerator, model.trunk, execution, compiled, is_frozen, model.affine)
    optimizer = build_optimizer(config.optim, model, fused=config.train.precision != "fp16")
    state = TrainState(
        model=model,
        optimizer=accelerator.prepare_optimizer(optimizer),
        scaler=accelerator.scaler,
        ema=ema,
        draws=np.zeros(routes.num_routes, dtype=np.int64),
        labels_seen=np.zeros(routes.num_tasks, dtype=np.int64),
        length=length,
    )
    if opened.checkpoint:
        if "optimizer" not in saved:
            raise InputError(
                f"`run.resume`: {opened.checkpoint.folder} holds only a network. Use a folder of `checkpoints`, or "
                "`run.start_from`."
            )
        state.load_state_dict(saved)
    return state, trunk


def without_download(config: Config) -> Config:
    """Returns the config of a network whose weights come from elsewhere, or do not matter."""
    return replace(config, model=replace(config.model, pretrained=False))


def fetch_on_every_machine(name: str, accelerator: Accelerator) -> None:
    """Fetches torchvision's weights by one rank of each machine. All ranks have to call it.

    Raises:
        InputError: One of the machines cannot have them; on all ranks.
    """
    problem = None
    if accelerator.is_local_main_process:
        try:
            fetch_weights(name)
        except InputError as error:
            problem = str(error)
    if problems := [found for found in gather_object([problem]) if found]:
        raise InputError(problems[0])


def check_checkpoint(checkpoint: CheckpointInfo, config: Config, data: RunData, model: RoutedModel) -> None:
    """Raises `InputError` if the run cannot resume from a checkpoint of its own."""
    check_network(checkpoint, tasks=data.num_classes, masks=hash_masks(model))
    check_resumable(checkpoint, config, data.manifest.hash_shards(TRAIN_SPLIT))


def build_components(resolved: ResolvedRun, data: RunData, accelerator: Accelerator, opened: OpenedRun) -> Components:
    """Builds everything that the loop works with, in the state in which the run starts or resumes."""
    config, routes = resolved.config, resolved.routes.routes
    world_size, rank, seed = accelerator.num_processes, accelerator.process_index, config.run.seed
    accumulate, batch_size = chosen(config.train.accumulate), chosen(config.data.batch_size)
    num_slots = world_size * accumulate
    length = build_length(config, resolved.num_steps)
    state, trunk = build_state(config, data, routes, accelerator, opened, length)
    train_ids, frozen = (
        data.manifest.sample_ids(TRAIN_SPLIT),
        find_frozen_tasks(config.run, opened.old_tasks, data.task_names),
    )
    trained = data.without_labels(frozen)
    fills = choose_fills(config.data.missing, data.tasks, config.data.balance, frozen)
    order = RouteOrder(seed, batch_size, trained.labels_of(TRAIN_SPLIT), train_ids, routes, config.data.balance, fills)
    losses = build_losses(config, data, order, fills)
    frozen_names = [data.task_names[task_id] for task_id in frozen]
    sampler = build_sampler(config.tasks, routes.names, order.count_samples(), seed, num_slots)
    plan = SlotPlan(order, sampler.routes, world_size, state.sampling_step(num_slots), state.draws)
    source: Source = TrainBatches(plan, data.reader, rank)
    if config.data.reading == "stream":
        source = StreamBatches(data.manifest, TRAIN_SPLIT, plan, data.reader, rank, config.data.stream_buffer)
    folder = RunFolder(config.run.folder)
    offsets = collect_offsets(data, losses, frozen_names, opened)
    saver = build_saver(config, data, world_size, frozen_names, offsets)
    return Components(
        state=state,
        schedule=build_schedule(config, length),
        learning_rate=LearningRate(peak=chosen(config.optim.lr), warmup_steps=config.optim.warmup_steps, length=length),
        meter=Meter(state.tally, num_slots * batch_size),
        train_step=TrainStep(
            accelerator=accelerator,
            model=state.model,
            trunk=trunk,
            optimizer=state.optimizer,
            labels=trained.labels,
            label_shares=order.label_shares(),
            losses=losses,
            fills=fills,
            seed=seed,
            transform=build_augment(chosen(config.data.augment), data.image_size),
            accumulate=accumulate,
            clip_norm=config.train.clip_norm,
            channels_last=config.train.channels_last,
            frozen=FrozenPart(state.model, frozen) if frozen else None,
        ),
        sampler=sampler,
        order=order,
        losses=losses,
        batches=build_loader(source, data.image_size, chosen(config.data.workers), accelerator.device.type == "cuda"),
        damage=data.damage_log(TRAIN_SPLIT),
        nonfinite=NonfiniteGuard(
            accelerator, config.guard.max_nonfinite, routes.names, data.reader.key, folder.nonfinite_file
        ),
        evaluator=build_evaluator(config, accelerator, state.evaluated, data.evaluation(config.eval.split)),
        split=config.eval.split,
        saver=saver,
        keeper=EvaluationKeeper(
            folder=folder,
            saver=saver,
            aims=config.decide.aims(data.task_names),
            prior_offsets=offsets,
            keep_predictions=config.eval.predictions,
        ),
        epochs_per_step=resolved.step_labels.passes(1),
    )


def build_evaluator(config: Config, accelerator: Accelerator, model: RoutedModel, split: EvalData) -> Evaluator:
    """Builds what evaluates a network on a split."""
    return Evaluator(
        accelerator,
        model,
        split,
        batch_size=config.eval.batch_size,
        route_chunk=config.eval.task_chunk,
        execution=config.routing.execution,
        channels_last=config.train.channels_last,
        folder=config.run.folder,
        min_count=config.eval.min_count,
    )


def build_saver(
    config: Config, data: RunData, world_size: int, frozen: list[str], prior_offsets: dict[str, list[float]]
) -> Saver:
    """Builds what writes the checkpoints of a run; `frozen` names the tasks for which everything stays as it is, and
    `prior_offsets` are those of `CheckpointInfo`."""
    return Saver(
        folder=RunFolder(config.run.folder),
        description={
            "classes": [[task.name, list(task.classes)] for task in data.tasks],
            "image_size": data.image_size,
            "shards": data.manifest.hash_shards(TRAIN_SPLIT),
            "manifest_id": data.manifest.id,
            "world_size": world_size,
            "frozen": frozen,
            "prior_offsets": prior_offsets,
            "config": asdict(config),
        },
        keep=config.checkpoint.keep,
        best_metric=config.checkpoint.best,
        split=config.eval.split,
    )


def build_recorder(config: Config, data: RunData, components: Components, enabled: bool) -> Recorder:
    """Builds what records the run, from the first rank alone if `enabled` says so."""
    recorder = Recorder(config.run.folder, config.track, data.task_names, enabled)
    if enabled and (table := build_balance_table(config, data, components.order, components.losses)).num_rows:
        recorder.record_balance(table)
    return recorder
