"""What a run saves: checkpoints to resume from, and the network of its best evaluation with its decisions."""

import math
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from matl_scale.decisions.table import Decisions, write_decisions
from matl_scale.errors import InputError
from matl_scale.runs.checkpoints.checkpoint import checkpoint_folders, load_state, read_info
from matl_scale.runs.checkpoints.masks import hash_masks, save_masks
from matl_scale.runs.checkpoints.writing import prune, save_checkpoint
from matl_scale.runs.layout import DECISIONS_FILE, TRUNK_FILE, RunFolder
from matl_scale.storage.files import sync_to_disk
from matl_scale.train.config import read_saved
from matl_scale.train.state import TrainState


@dataclass(frozen=True, kw_only=True)
class Saver:
    """Writes checkpoints and best networks of one run; its methods run on the first rank alone."""

    folder: RunFolder  # the run's folder
    description: Mapping[str, Any]  # the fields of `CheckpointInfo` that all checkpoints of the run share
    keep: int  # how many checkpoints to keep
    # the summary that the best network is chosen by, the higher the better; empty keeps no best network
    best_metric: str
    trunk: Path | None = None  # the file of the trunk that computed the features on which the network is trained

    def save_state(self, state: TrainState) -> None:
        """Writes a checkpoint. After it, only the last of the best networks is needed."""
        if self.folder.metrics_file.is_file():
            # a power cut must not take records of steps that will not be repeated
            sync_to_disk(self.folder.metrics_file)
        save_checkpoint(
            self.folder.checkpoints_folder,
            state.step,
            state.state_dict(),
            self._describe(state),
            self.keep,
            lambda folder, _: self._add_trunk(folder),
        )
        if state.moves.steps:
            save_masks(self.folder.path, state.model, state.move_arrays())
        prune(self.folder.best_folder, keep=1)

    def save_best(self, state: TrainState, summary: Mapping[str, float], decide: Callable[[str], Decisions]) -> str:
        """Writes the network that was just evaluated if it is the best so far, with its decisions.

        Earlier ones stay until the next checkpoint: a run resumed from the last checkpoint may not reach this step again.
        `decide` returns the decisions of the network with a SHA-256.

        Returns:
            The SHA-256 of its tensors, also if an evaluation that broke off had kept it before; empty if it is not the best.
        """
        if not self.best_metric:
            return ""
        root = self.folder.best_folder
        earlier = checkpoint_folders(root)
        # there is none of decisions if no task has two classes in the split
        score = summary.get(self.best_metric, math.nan)
        if earlier:
            comparable, best_score = self._score_of(earlier[-1], state)
            if comparable and (not math.isfinite(score) or (best_score is not None and score <= best_score)):
                return find_repeated(earlier[-1], state)
        info = self._describe(state) | {"score": score if math.isfinite(score) else None}
        network = {"model": state.evaluated.state_dict(), "ema": None}

        def add_decisions(folder: Path, sha256: str) -> None:
            write_decisions(folder / DECISIONS_FILE, decide(sha256))
            self._add_trunk(folder)

        return read_info(save_checkpoint(root, state.step, network, info, len(earlier) + 1, add_decisions)).sha256

    def _add_trunk(self, folder: Path) -> None:
        """Puts the trunk into a checkpoint, which is complete without the set's features then; all share the bytes on disk where
        the file system can."""
        if self.trunk is None:
            return
        try:
            os.link(self.trunk, folder / TRUNK_FILE)
        except OSError:
            shutil.copyfile(self.trunk, folder / TRUNK_FILE)

    def _score_of(self, best: Path, state: TrainState) -> tuple[bool, float | None]:
        """Returns whether a best network was chosen by the yardstick of this start, and its score. A damaged one was not; and
        that of a dense part says nothing of the sub-networks after it."""
        try:
            info = read_info(best)
        except InputError:
            return False, None
        config = read_saved(info.config)
        if config.routing.dense_part and info.masks != hash_masks(state.model):
            return False, None
        return config.yardstick == read_saved(self.description["config"]).yardstick, info.score

    def _describe(self, state: TrainState) -> dict[str, Any]:
        """Returns the fields of `CheckpointInfo` that do not come from writing."""
        return {**self.description, "masks": hash_masks(state.model), "routes": state.model.routes.to_json()}


def find_repeated(best: Path, state: TrainState) -> str:
    """Returns the SHA-256 of a kept network if it is the very one that was just evaluated, else an empty text."""
    info = read_info(best)
    if info.step != state.step:
        return ""
    kept, now = load_state(info)["model"], state.evaluated.state_dict()
    is_same = kept.keys() == now.keys() and all(torch.equal(kept[name], now[name].cpu()) for name in now)
    return info.sha256 if is_same else ""
