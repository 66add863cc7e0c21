"""What a run saves: checkpoints to resume from, the network of its best evaluation, and predictions for every sample."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
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
from matl_scale.storage.files import sync_to_disk
from matl_scale.train.config import read_saved
from matl_scale.train.prediction_log import PredictionLog, gather_predictions
from matl_scale.train.process_group import on_main
from matl_scale.train.run_data import RunData
from matl_scale.train.state import TrainState


@dataclass(frozen=True, kw_only=True)
class Saver:
    """Writes checkpoints and best networks of one run; its methods run on the first rank alone."""

    folder: RunFolder  # the run's folder
    description: Mapping[str, Any]  # the fields of `CheckpointInfo` that all checkpoints of the run share
    keep: int  # how many checkpoints to keep
    # the summary that the best network is chosen by, the higher the better; empty keeps no best network
    best_metric: str
    split: str  # the split whose evaluations choose it

    def save_state(self, state: TrainState) -> None:
        """Writes a checkpoint. After it, only the last of the best networks is needed."""
        if self.folder.metrics_file.is_file():
            # a power cut must not take records of steps that will not be repeated
            sync_to_disk(self.folder.metrics_file)
        save_checkpoint(
            self.folder.checkpoints_folder, state.step, state.state_dict(), self._describe(state), self.keep
        )
        prune(self.folder.best_folder, keep=1)

    def save_best(self, state: TrainState, summary: Mapping[str, float]) -> None:
        """Writes the network that was just evaluated if it is the best so far.

        Earlier ones stay until the next checkpoint: a run resumed from the last checkpoint may not reach this step again.
        """
        if not self.best_metric:
            return
        root = self.folder.best_folder
        earlier = checkpoint_folders(root)
        score = summary[self.best_metric]
        if earlier:
            comparable, best_score = self._score_of(earlier[-1])
            if comparable and (not math.isfinite(score) or (best_score is not None and score <= best_score)):
                return
        info = self._describe(state) | {"score": score if math.isfinite(score) else None}
        save_checkpoint(root, state.step, {"model": state.evaluated.state_dict(), "ema": None}, info, len(earlier) + 1)

    def _score_of(self, best: Path) -> tuple[bool, float | None]:
        """Returns whether a best network was chosen by today's metric and split, and its score. A damaged one was not."""
        try:
            info = read_info(best)
        except InputError:
            return False, None
        config = read_saved(info.config)
        return (config.checkpoint.best, config.eval.split) == (self.best_metric, self.split), info.score

    def _describe(self, state: TrainState) -> dict[str, Any]:
        """Returns the fields of `CheckpointInfo` that do not come from writing."""
        return {**self.description, "masks": hash_masks(state.model), "routes": state.model.routes.to_json()}


def save_predictions(
    accelerator: Accelerator, log: PredictionLog, data: RunData, split: str, step: int, folder: Path
) -> None:
    """Writes the predictions of a split into a run's folder. All ranks have to call it."""
    batches = gather_predictions(accelerator, log)

    def blocks() -> Iterator[PredictionBlock]:
        for sample_ids, classes, log_odds in batches:
            labels = np.where(classes == MISSING, MISSING, data.labels[sample_ids])
            yield PredictionBlock(
                samples=data.reader.keys(sample_ids), labels=labels, predicted=classes, log_odds=log_odds
            )

    info = PredictionsInfo(split=split, step=step, tasks=tuple(data.tasks), test_set=data.manifest.hash_shards(split))
    problem: OSError | None = None
    if accelerator.is_main_process:
        try:
            write_predictions(RunFolder(folder).predictions_file(split), info, blocks())
        except OSError as error:
            problem = error
    # the other ranks only send, and the first one receives the remaining batches if writing failed: no rank waits for another
    for _ in batches:
        pass

    def report_problem() -> None:
        if problem is not None:
            raise problem

    on_main(accelerator, report_problem)
