"""A training run from beginning to end: open, build, resume, loop, close."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from accelerate import Accelerator
from accelerate.utils import gather_object

from matl_scale.device import device_name
from matl_scale.progress import TrainProgress
from matl_scale.runs.checkpoints.masks import find_old_tasks
from matl_scale.runs.layout import RunFolder
from matl_scale.runs.records import LocalLog
from matl_scale.tracking.recorder import LAST_COPY_S
from matl_scale.train.build import build_components, build_recorder
from matl_scale.train.config import Config
from matl_scale.train.defaults.facts import read_machine
from matl_scale.train.defaults.weights import fill_before_data
from matl_scale.train.features.choose import copy_trunk, find_features
from matl_scale.train.health.stop import StopRequest
from matl_scale.train.health.watchdog import Watchdog, explain_lost_ranks
from matl_scale.train.loop import Hooks, Run, run_steps
from matl_scale.train.losses.task_loss import check_losses
from matl_scale.train.masks.carve import build_carved
from matl_scale.train.process_group import on_main
from matl_scale.train.resolve import ResolvedRun, resolve_run
from matl_scale.train.resume.open_run import OpenedRun, open_run
from matl_scale.train.resume.prepare_folder import build_run_folder, describe_resumption, describe_subnetworks
from matl_scale.train.resume.start_from import describe_start
from matl_scale.train.run_data import RunData, check_train_data, open_run_data

STOPPED_COPY_S = 10.0  # longest wait for the copy to MLflow when a job system is about to end the process

QuickChecks = Callable[[Config, RunData, int], Sequence[str]]


@dataclass(frozen=True, kw_only=True)
class RunOutcome:
    """How a run ended."""

    stopped: bool  # whether it was asked to stop before its last step
    step: int  # steps done


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
        RunError: The run has to end because of numbers, replicas or ranks, or because a checkpoint cannot be written.
    """
    world_size, is_first_rank = accelerator.num_processes, accelerator.is_main_process
    with contextlib.ExitStack() as stack:
        watchdog = Watchdog(config.guard.timeout_s, accelerator.process_index, world_size)
        stack.enter_context(explain_lost_ranks(watchdog))
        stop = stack.enter_context(StopRequest())
        stack.enter_context(watchdog)

        # open: the first rank locks the folder and finds what the run resumes from
        opened = open_run(accelerator, stack, config.run)

        # build: from here on the config has every automatic choice made
        machine = read_machine(world_size)
        given = config
        config = on_main(accelerator, lambda: fill_before_data(given, machine, opened.checkpoint, opened.start))
        data = open_run_data(config, opened.label_version)
        check_train_data(data, config.data, world_size)
        # patterns without a match end the run here, before anything is built
        check_losses(config.loss, data.tasks)
        config.decide.aims(data.task_names)
        config.track.curve_tasks(data.task_names)
        described = config
        resolved = on_main(accelerator, lambda: resolve_run(described, data, machine, opened.checkpoint, opened.start))
        config, data = resolved.config, data.at_size(resolved.config)
        components = build_components(resolved, data, accelerator, opened)
        state, schedule = components.state, components.schedule
        has_evaluation = opened.has_evaluation(state.step, config.eval.split) and not state.lacks_patience
        lacks_evaluation = schedule.is_evaluated_after(state.step) and not has_evaluation

        # resume: say where the run stands, and bring its folder to that step
        is_guessed = state.length.seconds > 0 and not state.length.fitted_at
        progress = TrainProgress(None if is_guessed else schedule.num_steps, state.step, enabled=is_first_rank)
        for complaint in opened.complaints:
            progress.say(complaint)
        if state.is_over() and not lacks_evaluation:
            early = ", it ended early by `train.patience`" if not schedule.is_last(state.step) else ""
            progress.say(f"{config.run.folder} is complete: {state.step} of {schedule.num_steps} steps{early}")
            return RunOutcome(stopped=False, step=state.step)
        devices = gather_object([device_name(accelerator.device)])
        # only the rank that made a cache has something to say of it
        notes = gather_object([*data.notes, *resolved.notes, *components.notes])
        for note in dict.fromkeys(notes):
            progress.say(note)

        def prepare() -> Sequence[str]:
            build_run_folder(config, data, state, devices)
            if config.model.is_features:
                copy_trunk(find_features(config), RunFolder(config.run.folder).trunk_file)
            if lacks_evaluation:  # it may have been recorded, but not have counted for `train.patience`
                LocalLog(config.run.folder).forget_evaluation(state.step, config.eval.split)
            return quick_checks(config, data, world_size) if quick_checks is not None else []

        for line in [*on_main(accelerator, prepare), *describe_origin(opened, resolved, data, world_size)]:
            progress.say(line)
        if components.roaming is not None:
            progress.say(components.roaming.times.describe(state.length))

        # loop and close
        run = Run(
            accelerator=accelerator,
            data=data,
            components=components,
            recorder=build_recorder(config, data, components, is_first_rank),
            progress=progress,
            stop=stop,
            watchdog=watchdog,
            hooks=hooks or Hooks(),
            first_step=state.step,
        )
        return run_to_end(run, lacks_evaluation, lambda dense: begin_subnetworks(config, dense))


def describe_origin(opened: OpenedRun, resolved: ResolvedRun, data: RunData, world_size: int) -> list[str]:
    """Says what a run resumes from or starts with and what has changed since, and what was chosen by rules."""
    if opened.checkpoint:
        changes = describe_resumption(opened.checkpoint, resolved.config, data, world_size)
        return ["\n  ".join([f"resuming from {opened.checkpoint.folder}", *changes])]
    lines = [*resolved.lines]
    if resolved.routes.reason:
        lines.append(resolved.routes.reason)
    if resolved.routes.mask_note:
        lines.append(resolved.routes.mask_note)
    if opened.start:
        lines.append(describe_start(opened.start, find_old_tasks(opened.start, data.task_names), resolved.config.data))
    return lines


def run_to_end(run: Run, lacks_evaluation: bool, after_dense_part: Callable[[Run], Run]) -> RunOutcome:
    """Runs the steps, and closes the records with the run's final status. `after_dense_part` returns what a run goes on with."""
    status, stopped = "FAILED", False
    try:
        with run.progress:
            while (ending := run_steps(run, lacks_evaluation)) == "dense part":
                run, lacks_evaluation = after_dense_part(run), False
            stopped = ending == "stopped"
        status = run.stop.status if stopped else "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        close_run(run, status, stopped)
    return RunOutcome(stopped=stopped, step=run.state.step)


def begin_subnetworks(config: Config, run: Run) -> Run:
    """Returns a run behind its dense part, in which each route keeps the units that matter most to its tasks, and says so."""
    run.watchdog.beat(f"the sub-networks after step {run.state.step}")
    carved = replace(run, components=build_carved(config, run.data, run.accelerator, run.components))
    line = on_main(run.accelerator, lambda: describe_subnetworks(config, carved.state))
    run.progress.say(line)
    return carved


def close_run(run: Run, status: str, stopped: bool) -> None:
    """Completes the run's folder, says that a stopped run may be started again, and only then does what may take long: the end of
    the loader processes and the copy to MLflow."""
    run.watchdog.pause()
    try:
        run.recorder.finish(status)
        if stopped and run.accelerator.is_main_process:
            run.stop.confirm(run.state.step)
        run.components.batches.close()
    finally:
        run.recorder.close(STOPPED_COPY_S if stopped else LAST_COPY_S)
