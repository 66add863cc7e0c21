"""A training run: build, resume, loop, save, close."""

import contextlib
from dataclasses import dataclass, replace

import numpy as np
from accelerate import Accelerator

from matl_scale.cluster import describe_interval, read_job, time_left_s
from matl_scale.config import Config, walk
from matl_scale.data.damage import DamageLog
from matl_scale.doctor.glance import glance
from matl_scale.errors import RunError
from matl_scale.files import explain_os_error
from matl_scale.metrics import TaskMetrics
from matl_scale.routing.surgery import kept_share
from matl_scale.tracking.recorder import Recorder
from matl_scale.train.damaged import share_damage
from matl_scale.train.guards import NonfiniteGuard, compare_replicas
from matl_scale.train.inherit import describe_start, find_start, rows_of
from matl_scale.train.optim import learning_rate, set_learning_rate
from matl_scale.train.parts import Parts, balance_table, build_parts, check_train_data, choose_version
from matl_scale.train.progress import TrainProgress
from matl_scale.train.ranks import on_main
from matl_scale.train.run_folder import (
    changes_since,
    find_checkpoint,
    is_due,
    is_evaluated_after,
    lacks_evaluation,
    lock_run,
    open_folder,
    save_state,
)
from matl_scale.train.setup import TRAIN_SPLIT, RunData, open_data, resolve_config
from matl_scale.train.stop import StopRequest
from matl_scale.train.watchdog import Watchdog, explain_lost_ranks

STOPPED_COPY_S = 10.0  # for MLflow, when a job system is about to end the process


@dataclass(frozen=True, kw_only=True)
class RunOutcome:
    """What a run ends with.

    Attributes:
        metrics: The last evaluation; None if the run was asked to stop before its end.
        step: Steps done.
        tasks: Names.
    """

    metrics: TaskMetrics | None
    step: int
    tasks: list[str]


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run that is under way: its parts, and whom it tells what happens."""

    config: Config
    accelerator: Accelerator
    data: RunData
    parts: Parts
    recorder: Recorder
    progress: TrainProgress
    damage: DamageLog
    nonfinite: NonfiniteGuard
    stop: StopRequest
    watchdog: Watchdog
    first_step: int


def train(config: Config, accelerator: Accelerator) -> RunOutcome:
    """Trains a run to its last step, from its newest checkpoint if `run.resume` says so, or until it is asked to stop.

    Args:
        config: Equal on all ranks.
        accelerator: From `build_accelerator`.

    Raises:
        InputError: The config, the shard set and the run's folder do not fit together.
        RunError: The run cannot go on: numbers, replicas, ranks or disk.
    """
    with contextlib.ExitStack() as stack:
        watchdog = Watchdog(config.guard.timeout_s, accelerator.process_index, accelerator.num_processes)
        stack.enter_context(explain_lost_ranks(watchdog))
        stop = stack.enter_context(StopRequest())
        stack.enter_context(watchdog)
        try:
            return start(config, accelerator, stop, watchdog, stack)
        except OSError as error:
            reason = explain_os_error(error)
            if reason is None:
                raise
            raise RunError(reason) from error


def start(
    config: Config, accelerator: Accelerator, stop: StopRequest, watchdog: Watchdog, stack: contextlib.ExitStack
) -> RunOutcome:
    """Builds a run, or what its newest checkpoint holds of it, and carries it on."""
    config = resolve_config(config)
    on_main(accelerator, lambda: enter(stack, lock_run(config.run.folder)))
    checkpoint, complaints = on_main(accelerator, lambda: find_checkpoint(config))
    config = choose_version(config, checkpoint)
    data = open_data(config)
    config = replace(config, data=replace(config.data, version=str(data.manifest.version)))
    check_train_data(data, config, accelerator.num_processes)
    config.track.curve_tasks(data.task_names)
    origin = on_main(accelerator, lambda: None if checkpoint else find_start(config))
    parts = build_parts(config, data, accelerator, checkpoint, origin)
    state = parts.state
    progress = TrainProgress(state.step, config.train.steps, accelerator.is_main_process)
    for complaint in complaints:
        progress.say(complaint)
    unevaluated = on_main(accelerator, lambda: lacks_evaluation(config, state.step))
    if state.step >= config.train.steps and not unevaluated:
        progress.say(f"{config.run.folder} is complete: {state.step} of {config.train.steps} steps")
        return RunOutcome(metrics=parts.evaluator(), step=state.step, tasks=data.task_names)
    on_main(accelerator, lambda: open_folder(config, kept_share(state.model.trunk), state.step))
    for finding in on_main(accelerator, lambda: glance(config, data, accelerator.num_processes)):
        progress.say(f"{finding.level}: {finding.topic}: {finding.text} {finding.remedy}".rstrip())
    if checkpoint:
        changes = changes_since(checkpoint, config, data, accelerator.num_processes)
        progress.say("\n  ".join([f"going on from {checkpoint.folder}", *changes]))
    elif origin:
        progress.say(describe_start(origin, rows_of(origin, data)))
    params = dict(walk(config)) | {"manifest_id": data.manifest.id, "world_size": accelerator.num_processes}
    recorder = Recorder(config.run.folder, config.track, params, data.task_names, accelerator.is_main_process)
    if config.data.balance:
        recorder.balance(balance_table(parts.order, data))
    limit, key_of = config.guard.max_nonfinite, data.reader.key
    run = Run(
        config=config,
        accelerator=accelerator,
        data=data,
        parts=parts,
        recorder=recorder,
        progress=progress,
        damage=data.damage_log(TRAIN_SPLIT),
        nonfinite=NonfiniteGuard(accelerator, limit, data.task_names, key_of, config.run.folder),
        stop=stop,
        watchdog=watchdog,
        first_step=state.step,
    )
    return RunOutcome(metrics=carry_on(run, unevaluated), step=state.step, tasks=data.task_names)


def enter(stack: contextlib.ExitStack, context: contextlib.AbstractContextManager[None]) -> None:
    """Enters a context that yields nothing, so that nothing of it has to travel to other ranks."""
    stack.enter_context(context)


def carry_on(run: Run, unevaluated: bool) -> TaskMetrics | None:
    """Runs the steps and closes the records with the truth about how it ended."""
    status, wait = "FAILED", {}
    try:
        with run.progress:
            metrics = run_steps(run, unevaluated)
        status = "FINISHED"
        if metrics is None:
            status, wait = run.stop.status, {"wait_s": STOPPED_COPY_S}
            if run.accelerator.is_main_process:
                run.stop.answer(run.parts.state.step)
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        run.parts.batches.close()
        run.watchdog.rest()
        run.recorder.close(status, **wait)
    return metrics


def run_steps(run: Run, unevaluated: bool) -> TaskMetrics | None:
    """Runs the remaining steps, with records, evaluations and checkpoints where they are due.

    Args:
        run: What to run.
        unevaluated: Whether an evaluation belongs to the last step of an earlier start, and is missing.

    Returns:
        The last evaluation; None if the run was asked to stop.
    """
    config, state = run.config, run.parts.state
    metrics = evaluate(run) if unevaluated else None
    if unevaluated and metrics is None:
        return None
    while state.step < config.train.steps:
        stopping = run_step(run)
        with run.parts.meter.paused():
            if not stopping and is_evaluated_after(config, state.step):
                metrics = evaluate(run)
                stopping = metrics is None
            if stopping or is_due(state.step, config.checkpoint.every) or state.step == config.train.steps:
                save(run)
            elif is_due(state.step, config.guard.replicas_every):
                compare_replicas(run.accelerator, state.model, state.step)
        if stopping:
            run.progress.say(f"stopped after step {state.step} ({run.stop.explain()}), with a checkpoint")
            return None
    return metrics


def run_step(run: Run) -> bool:
    """Runs one step and records it if that is due. Returns whether some rank was asked to stop."""
    config, parts, state, meter = run.config, run.parts, run.parts.state, run.parts.meter
    rate = learning_rate(config.optim, state.step, config.train.steps)
    set_learning_rate(state.optimizer, rate)
    turn = state.turn(parts.sampler.num_slots)
    tasks = parts.sampler.tasks(turn)
    run.watchdog.beat(describe_step(run, tasks))
    result = parts.train_step(tasks, parts.batches, stop=bool(run.stop.reason))
    meter.update(result)
    if result.sync.damaged.any():  # known to all ranks
        share_damage(run.accelerator, run.damage, result.damage, config.run.folder)
    if state.ema is not None and not result.skipped:
        state.ema.update_parameters(state.model)
    state.step, state.slots = state.step + 1, (turn + 1) * parts.sampler.num_slots
    np.add.at(state.draws, tasks, 1)
    if complaint := run.nonfinite.update(state.step, result):
        run.progress.say(complaint)
    run.progress.step(state.step, meter.loss, meter.images_per_s, meter.wait_share)
    if is_due(state.step, config.track.every) or state.step == config.train.steps:
        metrics = meter.record() | describe_position(parts, rate)
        run.recorder.record(state.step, metrics)
        is_first = state.step - run.first_step <= config.track.every
        if is_first and run.accelerator.is_main_process:
            check_interval(run, metrics["train/step_s"])
    return result.sync.stop


def check_interval(run: Run, step_s: float) -> None:
    """Complains if the job's time limit comes before the next checkpoint."""
    complaint = describe_interval(run.config.checkpoint.every, step_s, time_left_s(read_job()))
    if complaint:
        run.progress.say(complaint)


def describe_step(run: Run, tasks: np.ndarray) -> str:
    """Says which step comes, and which tasks this rank runs in it."""
    mine = tasks[run.accelerator.process_index :: run.accelerator.num_processes]
    names = ", ".join(run.data.tasks[task_id].name for task_id in mine[:4].tolist())
    return f"step {run.parts.state.step + 1} (task {names}{', …' if len(mine) > 4 else ''})"


def describe_position(parts: Parts, rate: float) -> dict[str, float]:
    """Returns the run-level metrics that say how far the run is."""
    state = parts.state
    return {
        "train/lr": rate,
        "train/epoch": state.step * parts.epochs_per_step,
        "tasks/draws_min": float(state.draws.min()),
        "tasks/draws_max": float(state.draws.max()),
    }


def evaluate(run: Run) -> TaskMetrics | None:
    """Evaluates, records it and says in one line how it went; None if the run is asked to stop meanwhile."""
    state, split = run.parts.state, run.config.eval.split

    def keep_on() -> bool:
        run.watchdog.beat(f"the evaluation after step {state.step}")
        return not run.stop.reason

    metrics = run.parts.evaluator.run(keep_on)
    if metrics is None:
        return None
    summary = metrics.summary()
    run.recorder.draws(state.step, state.draws)
    run.recorder.evaluation(state.step, split, summary, metrics.values, metrics.counts)
    run.progress.say(
        f"step {state.step}: {split} balanced accuracy {summary['macro_balanced_accuracy']:.4f}, "
        f"AUROC {summary['macro_auroc']:.4f}, below baseline {summary['tasks_below_baseline']:.0f} of "
        f"{len(metrics.counts)} tasks"
    )
    for log in (run.damage, run.parts.evaluator.data.damage):
        if log.found:
            run.progress.say(log.describe())
    return metrics


def save(run: Run) -> None:
    """Writes a checkpoint, of replicas that are equal."""
    state, world_size = run.parts.state, run.accelerator.num_processes
    run.watchdog.beat(f"the checkpoint after step {state.step}")
    if run.config.guard.replicas_every:
        compare_replicas(run.accelerator, state.model, state.step)
    on_main(run.accelerator, lambda: save_state(run.config, run.data, state, world_size))
