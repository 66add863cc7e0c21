"""Small runs for tests of the report."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from helpers.report_runs import LABELS, TASKS, Write, draw_predictions, write_run
from matl_scale.tasks import Task


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Returns a function that writes a run: name, skill, seed, and the arguments of `write_run`."""

    def run(
        name: str,
        skill: float | np.ndarray = 0.8,
        seed: int = 0,
        tasks: Sequence[Task] = TASKS,
        labels: np.ndarray = LABELS,
        sigma: float = 0.5,
        **others: object,
    ) -> Path:
        config = {"run": {"seed": seed}, "routing": {"sigma": sigma}, "track": {"every": seed}}
        predicted = draw_predictions(labels, tasks, skill, seed)
        write_run(tmp_path / name, tasks, labels, predicted, **{"config": config, **others})  # type: ignore[arg-type]
        return tmp_path / name

    return run
