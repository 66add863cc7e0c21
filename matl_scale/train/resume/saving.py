"""What a run saves: checkpoints to go on from, the network of its best evaluation, and what it answered for every sample."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator

from matl_scale.data.shards.layout import MISSING
from matl_scale.errors import InputError
from matl_scale.runs.checkpoints.checkpoint import checkpoint_folders, read_info
from matl_scale.runs.checkpoints.masks import hash_masks
from matl_scale.runs.checkpoints.writing import prune, save_checkpoint
from matl_scale.runs.layout import RunFolder
from matl_scale.runs.predictions import PredictionBlock, PredictionsInfo, write_predictions
from matl_scale.storage.files import sync_file
from matl_scale.train.config import Config
from matl_scale.train.evaluation import AnswerLog, gather_answers
from matl_scale.train.process_group import on_main
from matl_scale.train.run_data import TRAIN_SPLIT, RunData
from matl_scale.train.state import TrainState


def save_state(config: Config, data: RunData, state: TrainState, world_size: int) -> None:
    """Writes a checkpoint of the state. Of the best networks only the last is needed from now on."""
    folder = config.run.folder
    if RunFolder(folder).metrics_file.is_file():
        sync_file(
            RunFolder(folder).metrics_file
        )  # a power cut must not take records of steps that will not be repeated
    info = describe(config, data, state, world_size)
    save_checkpoint(RunFolder(folder).checkpoints_folder, state.step, state.state_dict(), info, config.checkpoint.keep)
    prune(RunFolder(folder).best_folder, keep=1)


def save_best(config: Config, data: RunData, state: TrainState, world_size: int, summary: Mapping[str, float]) -> None:
    """Writes the network that was just evaluated if it is the best so far.

    Earlier ones stay until the next checkpoint: a run that goes on from the last one may not come here again.

    Args:
        config: `checkpoint.best` says what counts.
        data: Of the run.
        state: Whose network was evaluated.
        world_size: W.
        summary: Of the evaluation.
    """
    root = RunFolder(config.run.folder).best_folder
    earlier = checkpoint_folders(root)
    if not config.checkpoint.best:
        return
    score = summary[config.checkpoint.best]
    if earlier:
        comparable, best_score = score_of(earlier[-1], config)
        if comparable and (not math.isfinite(score) or (best_score is not None and score <= best_score)):
            return
    info = describe(config, data, state, world_size) | {"score": score if math.isfinite(score) else None}
    save_checkpoint(root, state.step, {"model": state.evaluated.state_dict(), "ema": None}, info, len(earlier) + 1)


def score_of(folder: Path, config: Config) -> tuple[bool, float | None]:
    """Returns whether a best network was chosen by what counts now, and its score; a damaged one gives way."""
    try:
        info = read_info(folder)
    except InputError:
        return False, None
    before = (info.config["checkpoint"]["best"], info.config["eval"]["split"])
    return before == (config.checkpoint.best, config.eval.split), info.score


def describe(config: Config, data: RunData, state: TrainState, world_size: int) -> dict[str, Any]:
    """Returns the fields of `CheckpointInfo` that do not come from writing."""
    return {
        "masks": hash_masks(state.model),
        "classes": [[task.name, list(task.classes)] for task in data.tasks],
        "image_size": data.image_size,
        "shards": data.manifest.hash_shards(TRAIN_SPLIT),
        "manifest_id": data.manifest.id,
        "world_size": world_size,
        "config": asdict(config),
    }


def save_answers(accelerator: Accelerator, log: AnswerLog, data: RunData, split: str, step: int, folder: Path) -> None:
    """Writes the predictions of a split into a run's folder. All ranks have to call it."""
    parts = gather_answers(accelerator, log)

    def blocks() -> Iterator[PredictionBlock]:
        for rows, answers, confidences in parts:
            labels = np.where(answers == MISSING, MISSING, data.labels[rows])
            yield PredictionBlock(
                samples=data.reader.keys(rows), labels=labels, predicted=answers, confidences=confidences
            )

    info = PredictionsInfo(split=split, step=step, tasks=tuple(data.tasks), test_set=data.manifest.hash_shards(split))
    problem: OSError | None = None
    if accelerator.is_main_process:
        try:
            write_predictions(RunFolder(folder).predictions_file(split), info, blocks())
        except OSError as error:
            problem = error
    for _ in parts:  # ranks that only send, and what is left where writing failed: nobody waits for another
        pass

    def tell() -> None:
        if problem is not None:
            raise problem

    on_main(accelerator, tell)
