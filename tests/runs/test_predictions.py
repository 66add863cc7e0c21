"""The file of predictions."""

from pathlib import Path

import numpy as np
import pytest

from matl_scale.runs.predictions import Predictions, PredictionsInfo, read_predictions, write_predictions
from matl_scale.tasks import Task


@pytest.mark.parametrize("num_samples", [0, 3])
def test_predictions_are_read_back_in_the_order_of_keys(num_samples: int, tmp_path: Path) -> None:
    tasks = (Task(name="a", classes=("no", "yes")), Task(name="b", classes=("x", "y", "z")))
    rng = np.random.default_rng(0)
    written = Predictions(
        samples=np.arange(num_samples)[::-1],
        labels=rng.integers(-1, 2, (num_samples, 2)).astype(np.int8),
        predicted=rng.integers(-1, 2, (num_samples, 2)).astype(np.int16),
        log_odds=rng.normal(size=(num_samples, 4)).astype(np.float16),
        info=PredictionsInfo(split="val", step=1, tasks=tasks, test_set="x"),
    )
    write_predictions(tmp_path / "predictions.parquet", written)
    found = read_predictions(tmp_path / "predictions.parquet")
    assert found.info == written.info
    for name in ("samples", "labels", "predicted", "log_odds"):
        np.testing.assert_array_equal(getattr(found, name), getattr(written, name)[::-1])
