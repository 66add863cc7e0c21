"""A training run: build, resume, run its steps, close."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from accelerate import Accelerator
from accelerate.utils import gather_object

from matl_scale.device import device_name
from matl_scale.errors import RunError, explain_os_error
from matl_scale.metrics.task_metrics import TaskMetrics
from matl_scale.progress import TrainProgress
from matl_scale.routing.surgery import kept_share
from matl_scale.runs.about import write_about
from matl_scale.runs.checkpoints.masks import rows_of, save_masks
from matl_scale.tracking.recorder import Recorder
from matl_scale.train.build import balance_table, build_parts, resolve_config
from matl_scale.train.config import Config, walk
from matl_scale.train.health.nonfinite import NonfiniteGuard
from matl_scale.train.health.stop import StopRequest
from matl_scale.train.health.watchdog import Watchdog, explain_lost_ranks
from matl_scale.train.loop import Hooks, Run, run_steps
from matl_scale.train.process_group import on_main
from matl_scale.train.resume.open_run import changes_since, find_checkpoint, lacks_evaluation, lock_run, open_folder
from matl_scale.train.resume.start_from import describe_start, find_start
from matl_scale.train.run_data import TRAIN_SPLIT, RunData, check_train_data, choose_version, open_data

STOPPED_COPY_S = 10.0  # for MLflow, when a job system is about to end the process


@dataclass(frozen=True, kw_only=True)
class RunOutcome:
    """What a run ends with.

    Attributes:
        stopped: Whether it was asked to stop before its end.
        step: Steps done.
    """

    stopped: bool
    step: int


QuickChecks = Callable[[Config, RunData, int], Sequence[str]]


def train(
    config: Config, accelerator: Accelerator, quick_checks: QuickChecks | None = None, hooks: Hooks | None = None
) -> RunOutcome:
    """Trains a run to its last step, from its newest checkpoint if `run.resume` says so, or until it is asked to stop.

    Args:
        config: Equal on all ranks.
        accelerator: From `build_accelerator`.
        quick_checks: Gets the config, the data and the number of ranks, and returns what may go wrong, in lines to print;
            called on the first rank before the first step.
        hooks: Functions to call at fixed points of the run; None calls none.

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
            return start(config, accelerator, quick_checks, hooks or Hooks(), stop, watchdog, stack)
        except OSError as error:
            reason = explain_os_error(error)
            if reason is None:
                raise
            raise RunError(reason) from error


def start(
    config: Config,
    accelerator: Accelerator,
    quick_checks: QuickChecks | None,
    hooks: Hooks,
    stop: StopRequest,
    watchdog: Watchdog,
    stack: contextlib.ExitStack,
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
        return RunOutcome(stopped=False, step=state.step)
    on_main(accelerator, lambda: open_folder(config, kept_share(state.model.trunk), state.step))
    if quick_checks is not None:
        for line in on_main(accelerator, lambda: quick_checks(config, data, accelerator.num_processes)):
            progress.say(line)
    if checkpoint:
        changes = changes_since(checkpoint, config, data, accelerator.num_processes)
        progress.say("\n  ".join([f"going on from {checkpoint.folder}", *changes]))
    elif origin:
        progress.say(describe_start(origin, rows_of(origin, data.task_names)))
    describe_run(config, data, accelerator)
    on_main(accelerator, lambda: save_masks(config.run.folder, state.model))
    recorder = Recorder(config.run.folder, config.track, data.task_names, accelerator.is_main_process)
    if config.data.balance:
        recorder.record_balance(balance_table(parts.order, data))
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
        hooks=hooks,
        first_step=state.step,
    )
    return RunOutcome(stopped=carry_on(run, unevaluated) is None, step=state.step)


def describe_run(config: Config, data: RunData, accelerator: Accelerator) -> None:
    """Writes into the run's folder what it is made of."""
    params = dict(walk(config)) | {"manifest_id": data.manifest.id, "world_size": accelerator.num_processes}
    devices = gather_object([device_name(accelerator.device)])
    on_main(accelerator, lambda: write_about(config.run.folder, params, data.describe(), devices))


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
