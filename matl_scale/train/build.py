"""Builds what the loop of a run works with. These functions alone take values out of a `Config` and hand them on."""

from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass

from accelerate import Accelerator
from torch import fx

from matl_scale.automatic import chosen
from matl_scale.data.loading.augment import build_augmentation, choose_steps
from matl_scale.data.loading.damage import DamageLog
from matl_scale.data.loading.loader import ImageBatch, Source, TrainBatches, build_train_loader
from matl_scale.data.loading.missing import choose_fills
from matl_scale.data.loading.mixing import build_mixing
from matl_scale.data.loading.plan import RouteOrder, SlotPlan
from matl_scale.data.loading.route_samples import open_labelled_samples, open_route_samples
from matl_scale.data.loading.stream import StreamBatches
from matl_scale.data.shards.label_marks import RouteCache
from matl_scale.models.network import RoutedModel
from matl_scale.routing.subnetwork import SlicedNetwork
from matl_scale.runs.layout import RunFolder
from matl_scale.tracking.recorder import Recorder
from matl_scale.train.build_losses import build_balance_table, build_losses, collect_offsets
from matl_scale.train.build_state import build_state
from matl_scale.train.config import Config
from matl_scale.train.evaluation import EvalData, Evaluator
from matl_scale.train.health.nonfinite import NonfiniteGuard
from matl_scale.train.initial_heads import build_initial_heads
from matl_scale.train.keep_evaluation import EvaluationKeeper
from matl_scale.train.length import PARTS_TO_FIT, FirstPart, Length
from matl_scale.train.losses.task_loss import TaskLoss
from matl_scale.train.masks.dense_part import DensePart
from matl_scale.train.masks.move_times import MoveTimes
from matl_scale.train.masks.roaming import Roaming, count_moves
from matl_scale.train.meter import Meter
from matl_scale.train.resolve import ResolvedRun
from matl_scale.train.resume.open_run import OpenedRun
from matl_scale.train.resume.saving import Saver
from matl_scale.train.resume.start_from import find_frozen_tasks
from matl_scale.train.run_data import TRAIN_SPLIT, RunData
from matl_scale.train.schedule import Schedule
from matl_scale.train.state import TrainState
from matl_scale.train.step.freeze import FrozenPart
from matl_scale.train.step.optim import LearningRate
from matl_scale.train.step.sampling import RouteSampler, build_sampler
from matl_scale.train.step.train_step import TrainStep


@dataclass(frozen=True, kw_only=True)
class Components:
    """What the loop works with. Only the state changes."""

    state: TrainState  # what a checkpoint holds
    schedule: Schedule  # what is due after which step
    learning_rate: LearningRate  # as a function of the step
    head_warmup: FirstPart  # the first steps, in which heads are trained alone
    meter: Meter  # measures the steps
    train_step: TrainStep  # computes a step
    dense_part: DensePart | None  # the first steps of a run of the strategy magnitude
    sampler: RouteSampler  # says which route runs in which slot
    order: RouteOrder  # the batches of every route
    losses: list[TaskLoss]  # the loss of every task
    batches: Generator[ImageBatch, None, None]  # this rank's batches, without end
    damage: DamageLog  # log of damaged training samples
    nonfinite: NonfiniteGuard  # counts steps with numbers that are not finite
    evaluator: Evaluator  # evaluates the network
    split: str  # the split that it evaluates
    saver: Saver  # writes checkpoints and best networks
    roaming: Roaming | None  # moves masks between steps, if that was asked for
    keeper: EvaluationKeeper  # fits decisions and keeps what an evaluation found
    epochs_per_step: float  # passes over the labels of the training split per step
    notes: tuple[str, ...]  # what the user should know about how the data were opened, in lines


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


def build_components(resolved: ResolvedRun, data: RunData, accelerator: Accelerator, opened: OpenedRun) -> Components:
    """Builds everything that the loop works with, in the state in which the run starts or resumes."""
    config, routes = resolved.config, resolved.routes.routes
    world_size, rank, seed = accelerator.num_processes, accelerator.process_index, config.run.seed
    accumulate, batch_size = chosen(config.train.accumulate), chosen(config.data.batch_size)
    num_slots = world_size * accumulate
    length = build_length(config, resolved.num_steps)
    frozen = find_frozen_tasks(config.run, opened.old_tasks, data.task_names)
    trained = data.without_labels(frozen)
    fills = choose_fills(config.data.missing, data.tasks, config.data.balance, frozen)
    train_labels = trained.labels_of(TRAIN_SPLIT)
    cache = RouteCache(data.manifest.root)
    labelled, notes = open_route_samples(cache, train_labels, routes, fills)
    if config.data.share > 1:
        all_labelled, more_notes = open_labelled_samples(cache, train_labels, fills)
        labelled, notes = labelled | all_labelled, [*notes, *more_notes]
    order = RouteOrder(seed, batch_size, train_labels, routes, config.data.balance, fills, labelled)
    losses = build_losses(config, data, order, fills)
    # a run that resumes has heads, and to count the classes of all tasks takes a while
    heads = None if opened.checkpoint else build_initial_heads(config, data, order, losses, num_slots)
    state, trunk = build_state(
        config, data, routes, accelerator, opened, length, resolved.slots, resolved.routes.closeness, heads
    )
    frozen_names = [data.task_names[task_id] for task_id in frozen]
    sampler = build_sampler(config.tasks, routes.names, order.count_samples(), seed, num_slots)
    plan = SlotPlan(order, sampler.routes, world_size, state.sampling_step(num_slots), state.draws, config.data.share)
    source: Source = TrainBatches(plan, data.reader, rank)
    if config.data.reading == "stream":
        source = StreamBatches(data.manifest, TRAIN_SPLIT, plan, data.reader, rank, config.data.stream_buffer)
    folder = RunFolder(config.run.folder)
    offsets = collect_offsets(data, losses, frozen_names, opened)
    saver = build_saver(config, data, world_size, frozen_names, offsets)
    evaluator = build_evaluator(config, accelerator, state.evaluated, data.evaluation(config.eval.split))
    return Components(
        state=state,
        schedule=build_schedule(config, length),
        learning_rate=LearningRate(
            peak=chosen(config.optim.lr),
            warmup_steps=config.optim.warmup_steps,
            length=length,
            schedule=config.optim.schedule,
        ),
        head_warmup=FirstPart(share=config.optim.head_warmup, length=length),
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
            augmentation=build_augmentation(choose_steps(config.data.augment)),
            mixing=build_mixing(config.data.mixup, config.data.cutmix, order.count_samples(), routes.names),
            accumulate=accumulate,
            clip_norm=config.train.clip_norm,
            channels_last=config.train.channels_last,
            frozen=FrozenPart(state.model, frozen) if frozen else None,
            importance=state.importance,
            share=config.data.share,
        ),
        dense_part=DensePart(share=share, length=length) if (share := config.routing.dense_part) else None,
        sampler=sampler,
        order=order,
        losses=losses,
        batches=build_train_loader(source, config.data, data.image_size, seed, accelerator.device.type == "cuda"),
        damage=data.damage_log(TRAIN_SPLIT),
        nonfinite=NonfiniteGuard(
            accelerator,
            config.guard.max_nonfinite,
            routes.names,
            data.reader.key,
            folder.nonfinite_file,
            config.data.share,
        ),
        evaluator=evaluator,
        split=config.eval.split,
        saver=saver,
        roaming=build_roaming(config, resolved, state, [trunk.network, evaluator.predictor.network]),
        keeper=EvaluationKeeper(
            folder=folder,
            saver=saver,
            aims=config.decide.aims(data.task_names),
            prior_offsets=offsets,
            keep_predictions=config.eval.predictions,
        ),
        epochs_per_step=resolved.step_labels.passes(1),
        notes=tuple(notes),
    )


def build_roaming(
    config: Config, resolved: ResolvedRun, state: TrainState, networks: Sequence[SlicedNetwork | None]
) -> Roaming | None:
    """Builds what moves the masks of a run, if it should; `networks` were derived from the trunks of its state.

    Raises:
        InputError: There are no units to try, or masks cannot move in this backbone.
    """
    if config.routing.strategy != "roaming":
        return None
    times = build_move_times(resolved, state.model.trunk)
    derived = [network for network in networks if network is not None]
    return Roaming(seed=config.run.seed, times=times, networks=derived)


def build_move_times(resolved: ResolvedRun, trunk: fx.GraphModule) -> MoveTimes:
    """Builds the times at which the masks of a trunk move; raises `InputError` as `count_moves` does."""
    return MoveTimes(
        interval=resolved.config.routing.interval,
        steps_per_draw=resolved.step_labels.steps_per_draw,
        num_moves=count_moves(trunk),
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
        trunk=RunFolder(config.run.folder).trunk_file if config.model.is_features else None,
    )


def build_recorder(config: Config, data: RunData, components: Components, enabled: bool) -> Recorder:
    """Builds what records the run, from the first rank alone if `enabled` says so."""
    recorder = Recorder(config.run.folder, config.track, data.task_names, enabled)
    if enabled and (table := build_balance_table(config, data, components.order, components.losses)).num_rows:
        recorder.record_balance(table)
    return recorder
