"""Which predictions of a run stay: those of the last evaluation of a split, and those of the best network."""

import contextlib
import os

from matl_scale.errors import InputError
from matl_scale.runs.checkpoints.checkpoint import checkpoint_folders, read_info
from matl_scale.runs.layout import RunFolder
from matl_scale.runs.predictions import Predictions, read_predictions_info, write_predictions


def keep_predictions(folder: RunFolder, predictions: Predictions) -> None:
    """Writes what the last evaluation of a split predicted. What the best network predicted stays, in a file of its own if that
    is another one."""
    split, network = predictions.info.split, predictions.info.network
    last, of_best = folder.predictions_file(split), folder.best_predictions_file(split)
    best = checkpoint_folders(folder.best_folder)
    with contextlib.suppress(InputError):  # what is damaged cannot be kept
        sha256 = read_info(best[-1]).sha256 if best else "none"
        if network != sha256 and last.is_file() and read_predictions_info(last).network == sha256:
            os.replace(last, of_best)
        if network == sha256:
            of_best.unlink(missing_ok=True)
    write_predictions(last, predictions)
