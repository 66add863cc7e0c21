"""A training run: build, resume, loop, save, close."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar, cast

import numpy as np
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from matl_scale.config import Config, walk
from matl_scale.errors import InputError
from matl_scale.metrics import TaskMetrics
from matl_scale.routing.surgery import kept_share
from matl_scale.tracking.recorder import Recorder
from matl_scale.train.damaged import share_damage
from matl_scale.train.inherit import (
    describe_start,
    find_start,
    rows_of,
)
from matl_scale.train.meter import Meter
from matl_scale.train.optim import learning_rate, set_learning_rate
from matl_scale.train.parts import Parts, balance_table, build_parts, check_train_data, choose_version
from matl_scale.train.progress import TrainProgress
from matl_scale.train.run_folder import changes_since, find_checkpoint, open_folder, save_state
from matl_scale.train.setup import TRAIN_SPLIT, RunData, open_data, resolve_config
from matl_scale.train.state import TrainState

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class RunOutcome:
    """What a run ends with: the last evaluation, the steps done, and the task names."""

    metrics: TaskMetrics
    step: int
    tasks: list[str]


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
